"""pandas: reading, grouping, joining, dates with time zones, files."""

import io

import pandas as pd


def handler(event):
    sales = pd.read_csv(
        io.StringIO("day,shop,amount\n2026-01-31,a,1.5\n2026-02-01,b,2\n2026-02-02,a,4\n2026-02-02,c,8\n"),
        parse_dates=["day"],
    )
    shops = pd.DataFrame({"shop": ["a", "b"], "town": ["Berlin", "上海"]})
    joined = sales.merge(shops, on="shop", how="left")
    joined.to_csv("joined.csv", index=False)
    back = pd.read_csv("joined.csv")
    connection = __import__("sqlite3").connect("sales.db")
    sales.to_sql("sales", connection, index=False)
    return {
        "groups": sales.groupby("shop")["amount"].sum().to_dict(),
        "months": [float(n) for n in sales.groupby(sales["day"].dt.month)["amount"].mean()],
        "towns": joined["town"].fillna("none").tolist(),
        "back": [len(back), int(back["town"].isna().sum())],
        "zone": str(sales["day"].dt.tz_localize("UTC").dt.tz_convert("Asia/Shanghai").iloc[0]),
        "sql": float(pd.read_sql("SELECT sum(amount) AS total FROM sales", connection)["total"].iloc[0]),
        "rolling": sales["amount"].rolling(2).sum().dropna().tolist(),
    }
