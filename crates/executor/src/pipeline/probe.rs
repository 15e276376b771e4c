//! Whether sandboxes stand up here: a real program in a real one.

use std::sync::Arc;
use std::time::Duration;

use runtime::Language;

use super::Executor;
use crate::admission::request::{Ceilings, ExecuteRequest};
use crate::config::Config;

impl Executor {
    /// That sandboxes stand up: one did lately, or does now. However many ask at once, one program runs.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn proof(&self, config: &Config, lasts: Duration) -> Result<(), String> {
        let proved = || self.last_sandbox.lock().is_ok_and(|last| last.is_some_and(|last| last.elapsed() < lasts));
        if proved() {
            return Ok(());
        }
        let _one_at_a_time = self.proving.lock().await;
        if proved() { Ok(()) } else { self.probe(config).await }
    }

    /// Runs a real program in a real sandbox.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn probe(&self, config: &Config) -> Result<(), String> {
        let language =
            Language::ALL.into_iter().rev().find(|language| matches!(self.interpreters.get(language), Some(Ok(_))));
        let language = language.ok_or("there is no interpreter for any language")?;
        let code = if language == Language::Shell { "exit 0" } else { "0" };
        let answer =
            self.execute_quietly(probe_request(config, language, code)).await.map_err(|error| error.to_string())?;
        match answer.error {
            None => Ok(()),
            Some(error) => Err(format!("a program in a sandbox failed: {}", error.message)),
        }
    }
}

/// A request for a script of one line, for probes.
pub fn probe_request(config: &Config, language: Language, code: &str) -> ExecuteRequest {
    ExecuteRequest {
        execution_id: "probe".into(),
        digest: None,
        session_id: None,
        code: code.into(),
        language,
        timeout: Duration::from_secs(20),
        event: serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_default(),
        env_vars: Vec::new(),
        stdin: String::new(),
        working_directory: String::new(),
        mode: runtime::Mode::Script,
        limits: Ceilings::of(config).limits,
        files: Arc::default(),
        outputs: None,
    }
}
