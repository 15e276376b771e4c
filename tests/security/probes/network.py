# The network and the sockets of the host.


def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as connection:
        connection.settimeout(5)
        connection.connect(address)
        return "connected"


# Connecting a datagram socket looks the way up and sends nothing.
for number, name, family, address in (
    (43, "an address of the internet", socket.AF_INET, ("203.0.113.1", 9)),
    (44, "a name server", socket.AF_INET, ("198.51.100.53", 53)),
    (45, "the metadata service of a cloud", socket.AF_INET, ("169.254.169.254", 80)),
    (52, "an address of the internet by IPv6", socket.AF_INET6, ("2001:db8::1", 9)),
):
    nowhere = "ENETUNREACH EADDRNOTAVAIL"
    attack(number, f"find a way to {name}", nowhere, missing=[*nowhere.split(), "EAFNOSUPPORT"])(
        lambda family=family, address=address: connect(family, address, socket.SOCK_DGRAM)
    )


@attack(43, "see another interface than one's own loopback", "nothing-else", missing=["nothing-else"])
def _():
    with open("/proc/self/net/dev") as file:
        return beyond([line.split(":")[0].strip() for line in file if ":" in line], ["lo"])


@attack(46, "connect to the service", "ECONNREFUSED")
def _():
    return connect(socket.AF_INET, ("127.0.0.1", HOST["service_port"]))


@attack(46, "connect to a server on the host's loopback", "ECONNREFUSED")
def _():
    return connect(socket.AF_INET, ("127.0.0.1", HOST["tcp_port"]))


@attack(52, "connect to a server on the host's loopback by IPv6", "ECONNREFUSED EADDRNOTAVAIL", missing=["no-server"])
def _():
    if HOST["tcp6_port"] is None and HOST["control"]:
        raise Denied("no-server")
    return connect(socket.AF_INET6, ("::1", HOST["tcp6_port"] or 9))


@attack(52, "connect by /dev/tcp of bash", "refused")
def _():
    script = f"exec 3<>/dev/tcp/127.0.0.1/{HOST['tcp_port']}"
    if subprocess.run(["bash", "-c", script], capture_output=True, timeout=10).returncode:
        raise Denied("refused")
    return "connected"


@attack(47, "connect to an abstract socket of the host", "ECONNREFUSED EPERM")
def _():
    return connect(socket.AF_UNIX, "\0" + HOST["abstract_name"])


@attack(47, "see the sockets of the host", "absent")
def _():
    with open("/proc/self/net/unix") as file:
        if HOST["abstract_name"] not in file.read():
            raise Denied("absent")
    return "seen"


@attack(48, "connect to a socket in a folder of the host", "ENOENT")
def _():
    return connect(socket.AF_UNIX, HOST["socket_path"])


NO_SUCH_SOCKET = ["EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ENOPROTOOPT"]
FAMILIES = {
    "AX25": 3, "IPX": 4, "APPLETALK": 5, "X25": 9, "KEY": 15, "NETLINK": 16, "PACKET": 17, "RDS": 21, "PPPOX": 24,
    "CAN": 29, "TIPC": 30, "BLUETOOTH": 31, "RXRPC": 33, "PHONET": 35, "ALG": 38, "NFC": 39, "VSOCK": 40, "KCM": 41,
    "QIPCRTR": 42, "SMC": 43, "XDP": 44,
}


def open_socket(family):
    failure = None
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind).close()
            return "opened"
        except OSError as error:
            failure = error
    raise failure


for name, family in FAMILIES.items():
    # Most hosts have few of these, and then there is nothing to control.
    attack(49, f"open a socket of family {name}", "EAFNOSUPPORT", missing=[*NO_SUCH_SOCKET, "EPERM"])(
        lambda family=family: open_socket(family)
    )


@attack(49, "ask netlink for the interfaces", "EAFNOSUPPORT")
def _():
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).getsockname()


attack(50, "open a raw socket", "EPERM", control="root")(
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
)
attack(50, "open a packet socket by the old way", "ESOCKTNOSUPPORT EPERM", control="root", missing=NO_SUCH_SOCKET)(
    lambda: socket.socket(socket.AF_INET, 10, 0x0300).close()
)


def open_protocol(protocol, kind):
    socket.socket(socket.AF_INET, kind, protocol).close()


for name, protocol, kind in (
    ("SCTP", 132, socket.SOCK_STREAM),
    ("MPTCP", 262, socket.SOCK_STREAM),
    ("L2TP", 115, socket.SOCK_DGRAM),
):
    attack(49, f"open a socket of protocol {name}", "EPROTONOSUPPORT", missing=NO_SUCH_SOCKET)(
        lambda protocol=protocol, kind=kind: open_protocol(protocol, kind)
    )
