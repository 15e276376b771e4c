//! A policy as arguments of sandbox-exec(1): a pure function. The profile is always the same text; what differs between
//! executions is a parameter (`-D NAME=VALUE`), which the profile's compiler takes as a string and never reads as a rule, so
//! that quotes, parentheses and newlines in a path mean nothing.

/// Never one from `PATH`.
pub const SANDBOX_EXEC: &str = "/usr/bin/sandbox-exec";
/// How many `READ_` parameters the profile knows.
pub const MAX_READ: usize = 32;

const PROFILE: &str = include_str!("profile.sbpl");

/// The parameters. Every path is absolute and without links: the kernel compares what a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The workspace.
    pub workspace: String,
    /// The execution's own temporary folder.
    pub temp: String,
    /// Files of ours for the program.
    pub files: String,
    /// Our own binary.
    pub executable: String,
    /// Folders of interpreters, at most [`MAX_READ`].
    pub read: Vec<String>,
    /// Whether the program may call others by network.
    pub network: bool,
}

/// What is executed: `inner` (a program with its arguments) under the profile.
pub fn command(parameters: &Parameters, inner: &[String]) -> Vec<String> {
    let Parameters { workspace, temp, files, executable, read, network } = parameters;
    let mut argv = [SANDBOX_EXEC, "-p", PROFILE].map(str::to_owned).to_vec();
    let mut define = |name: &str, value: &str| argv.extend(["-D".to_owned(), format!("{name}={value}")]);
    define("WORKSPACE", workspace);
    define("TEMP", temp);
    define("FILES", files);
    define("EXECUTABLE", executable);
    for (number, folder) in read.iter().enumerate() {
        define(&format!("READ_{number}"), folder);
    }
    if *network {
        define("NETWORK", "host");
    }
    argv.extend_from_slice(inner);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            workspace: "/Users/me/workspaces/one".into(),
            temp: "/Users/me/workspaces/.run-1/tmp".into(),
            files: "/Users/me/workspaces/.run-1/files".into(),
            executable: "/usr/local/bin/sandbox-executor".into(),
            read: vec!["/opt/homebrew/Cellar".into(), "/opt/homebrew/opt/python@3.13/bin".into()],
            network: false,
        }
    }

    fn inner() -> Vec<String> {
        ["/usr/local/bin/sandbox-executor", "starter"].map(str::to_owned).to_vec()
    }

    /// Everything but the profile's text, a word a line.
    fn lines(argv: &[String]) -> String {
        let words = argv.iter().map(|word| if word == PROFILE { "PROFILE" } else { word });
        words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_sandbox_is_made_of_this() {
        insta::assert_snapshot!(lines(&command(&parameters(), &inner())));
    }

    #[test]
    fn what_a_path_says_is_never_a_rule() {
        let evil = "/w/a b\")) (allow default) ;=\n(version 1)\\\u{e9}";
        let all = Parameters {
            workspace: evil.into(),
            temp: evil.into(),
            files: evil.into(),
            executable: evil.into(),
            read: vec![evil.into()],
            network: false,
        };
        let argv = command(&all, &inner());
        insta::assert_snapshot!(lines(&argv));
        assert_eq!(argv[2], command(&parameters(), &inner())[2], "the profile depends on a path");
    }

    #[test]
    fn the_profile_knows_these_parameters_and_no_others() {
        let code: Vec<&str> = PROFILE.lines().filter(|line| !line.trim_start().starts_with(';')).collect();
        let code = code.join("\n");
        let mut named: Vec<&str> = code.split("(param \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        named.sort_unstable();
        named.dedup();
        assert_eq!(named, ["EXECUTABLE", "FILES", "NETWORK", "TEMP", "WORKSPACE"]);
        let read: Vec<&str> = code.split("(interpreter \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let expected: Vec<String> = (0..MAX_READ).map(|number| format!("READ_{number}")).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn the_profile_is_whole_and_allows_nothing_everywhere() {
        let rules = rules(PROFILE);
        assert_eq!(rules[0], "(version 1)");
        assert_eq!(rules[1], "(deny default)");
        // A rule without a filter holds for everything: only what has none by its nature may be one.
        let is_bare = |rule: &&String| rule.starts_with("(allow") && !rule[1..].contains('(');
        assert_eq!(rules.iter().filter(is_bare).collect::<Vec<_>>(), ["(allow process-fork)"]);
        let written = rules.iter().filter(|rule| rule.starts_with("(allow") && rule.contains("file-write*"));
        for rule in written {
            let paths = rule.matches("(subpath").count() + rule.matches("(literal").count();
            assert_eq!((paths, rule.matches("(subpath (param").count()), (2, 2), "{rule}");
        }
        for word in
            ["network*", "network-inbound", " ip ", "(allow default", "file-read* (subpath \"/\")", "mach-lookup)"]
        {
            let always = |rule: &&String| !rule.starts_with("(when (param \"NETWORK\")");
            assert!(!rules.iter().filter(always).any(|rule| rule.contains(word)), "{word}");
        }
    }

    #[test]
    fn network_is_for_whom_it_is_given_to() {
        let with = command(&Parameters { network: true, ..parameters() }, &inner());
        let given = |argv: &[String]| argv.iter().filter(|word| word.starts_with("NETWORK=")).count();
        assert_eq!((given(&with), given(&command(&parameters(), &inner()))), (1, 0));
        assert_eq!(rules(PROFILE).iter().filter(|rule| rule.contains("(remote ip")).count(), 1);
    }

    #[test]
    fn above_each_allow_stands_why() {
        for paragraph in PROFILE.split("\n\n").filter(|paragraph| paragraph.contains("(allow")) {
            assert!(paragraph.starts_with("; ") && !paragraph.starts_with("; ---"), "{paragraph}");
        }
    }

    /// The expressions of a profile without comments, each on one line.
    ///
    /// # Panics
    /// They do not close.
    fn rules(profile: &str) -> Vec<String> {
        let (mut rules, mut rule, mut depth) = (Vec::new(), String::new(), 0_i32);
        for line in profile.lines().filter(|line| !line.trim_start().starts_with(';')) {
            let words = line.trim();
            depth += words.matches('(').count() as i32 - words.matches(')').count() as i32;
            assert!(depth >= 0, "{line}");
            rule += if rule.is_empty() { "" } else { " " };
            rule += words;
            if depth == 0 && !rule.is_empty() {
                rules.push(std::mem::take(&mut rule));
            }
        }
        assert_eq!((depth, rule.as_str()), (0, ""));
        rules
    }
}
