//! `/executions`: one, all, and the end of one.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::execute::result;
use super::openapi::answers::{AnyStatus, Cancelled as Ended, ExecutionPage, ExecutionState};
use super::problem::Problem;
use super::query::page_size;
use super::routes::Service;
use crate::admission::fields::Violation;
use crate::admission::request::is_id;
use crate::executions::{Cancelled, Found, Page, parse_cursor};
use crate::store::{Filter, Status};

/// Executions on a page unless asked for otherwise, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1000;

/// One execution: where it is, or its result.
#[utoipa::path(get, path = "/executions/{id}", operation_id = "execution", tag = "executions",
    params(("id" = String, Path, description = "The execution's id")),
    responses((status = 200, description = "Where it is, or its result", body = ExecutionState)))]
pub async fn one(State(service): State<Arc<Service>>, id: Id) -> Result<Response, Problem> {
    Ok(match service.executions.find(&existing(id)?).await? {
        Found::Done(done) => result(done),
        Found::UnderWay(view) => Json(view).into_response(),
    })
}

/// End an execution.
///
/// Nothing of it is alive when 200 is answered.
#[utoipa::path(delete, path = "/executions/{id}", operation_id = "cancel", tag = "executions",
    params(("id" = String, Path, description = "The execution's id")),
    responses((status = 200, description = "It was ended", body = Ended)))]
pub async fn cancel(State(service): State<Arc<Service>>, id: Id) -> Result<Response, Problem> {
    let id = existing(id)?;
    match service.executions.cancel(&id).await? {
        Cancelled::Yes => {
            let body = json!({"execution_id": id, "status": "cancelled", "message": "Execution cancelled"});
            Ok(Json(body).into_response())
        }
        Cancelled::TooLate => Err(Problem::HAS_ENDED),
    }
}

/// Executions, newest first.
#[utoipa::path(get, path = "/executions", operation_id = "executions", tag = "executions",
    params(
        ("session_id" = Option<String>, Query, description = "Only of this session"),
        ("status" = Option<AnyStatus>, Query, description = "Only in this state"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Executions on a page; 50 unless asked for"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before")),
    responses((status = 200, description = "A page of them", body = ExecutionPage)))]
pub async fn list(
    State(service): State<Arc<Service>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let malformed = |_| Problem::Validation(vec![Violation::new("query", "must be name=value pairs in UTF-8")]);
    let Query(parameters) = query.map_err(malformed)?;
    let (filter, most) = read(parameters).map_err(Problem::Validation)?;
    service.executions.list(filter, most).await.map(Json)
}

/// The path's last part, if it is a text.
type Id = Result<Path<String>, PathRejection>;

/// What is no id is nobody's.
fn existing(id: Id) -> Result<String, Problem> {
    id.ok().map(|Path(id)| id).filter(|id| is_id(id)).ok_or(Problem::NotFound)
}

/// The list that is asked for, or everything that is wrong with the question.
fn read(parameters: Vec<(String, String)>) -> Result<(Filter, usize), Vec<Violation>> {
    let (mut filter, mut most, mut seen) = (Filter::default(), PAGE, Vec::new());
    let mut violations = Vec::new();
    for (name, value) in parameters {
        let problem = match name.as_str() {
            _ if seen.contains(&name) => "given twice".to_owned(),
            "session_id" if is_id(&value) => {
                filter.session_id = Some(value);
                String::new()
            }
            "session_id" => "must be an id".to_owned(),
            "status" => {
                filter.status = Status::parse(&value);
                if filter.status.is_some() { String::new() } else { format!("must be one of {}", Status::names()) }
            }
            "limit" => {
                let asked = page_size(&value, LARGEST_PAGE);
                most = *asked.as_ref().unwrap_or(&most);
                asked.err().unwrap_or_default()
            }
            "cursor" => {
                filter.before_seq = parse_cursor(&value);
                if filter.before_seq.is_some() {
                    String::new()
                } else {
                    "must be the next_cursor of an answer".to_owned()
                }
            }
            _ => "unknown parameter; known are session_id, status, limit, cursor".to_owned(),
        };
        if !problem.is_empty() {
            violations.push(Violation::new(name.clone(), problem));
        }
        seen.push(name);
    }
    if violations.is_empty() { Ok((filter, most)) } else { Err(violations) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(query: &[(&str, &str)]) -> Result<(Filter, usize), Vec<String>> {
        let parameters = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(parameters).map_err(|violations| violations.into_iter().map(|violation| violation.field).collect())
    }

    #[test]
    fn every_parameter_is_read_and_every_mistake_is_named() {
        let (filter, most) = read_all(&[("session_id", "s1"), ("status", "failed"), ("limit", "7")]).unwrap();
        assert_eq!((filter.session_id.as_deref(), filter.status, most), (Some("s1"), Some(Status::Failed), 7));
        assert_eq!(read_all(&[]).unwrap().1, PAGE);
        let wrong = [
            ("session_id", "../x"),
            ("status", "done"),
            ("limit", "0"),
            ("cursor", "17"),
            ("offset", "3"),
            ("limit", "5"),
        ];
        let named = read_all(&wrong).unwrap_err();
        assert_eq!(named, ["session_id", "status", "limit", "cursor", "offset", "limit"]);
        for limit in ["-1", "1001", "ten", ""] {
            assert_eq!(read_all(&[("limit", limit)]).unwrap_err(), ["limit"]);
        }
    }
}
