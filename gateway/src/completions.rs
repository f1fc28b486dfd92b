//! `mainstem completions`: what a shell reads to complete the commands.

/// The commands, and what may stand behind them first.
const COMMANDS: [(&str, &[&str]); 11] = [
    ("serve", &["--config", "--set"]),
    ("check-config", &["--config", "--set"]),
    ("config", &["explain"]),
    ("log", &["inspect", "verify", "stats"]),
    ("doctor", &["--config", "--set"]),
    ("top", &["--once", "--config", "--set"]),
    ("pub", MESSAGES),
    ("sub", MESSAGES),
    ("rabbitmqctl", &["help"]),
    ("completions", &["bash", "zsh", "fish"]),
    ("--help", &[]),
];

const MESSAGES: &[&str] =
    &["--proto", "--address", "--user", "--password", "--count", "--rate", "--header", "--help"];

/// The shells there are completions for.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The script for a shell; nothing for one that is not known.
#[must_use]
pub fn script(shell: &str) -> Option<String> {
    let names = COMMANDS.map(|(name, _)| name).join(" ");
    match shell {
        "bash" => Some(format!("{}complete -o default -F _mainstem mainstem\n", function(&names))),
        // zsh takes bash's, when it is told to.
        "zsh" => Some(format!(
            "autoload -U +X bashcompinit && bashcompinit\n{}complete -o default -F _mainstem mainstem\n",
            function(&names)
        )),
        "fish" => {
            let mut text =
                format!("complete -c mainstem -f -n __fish_use_subcommand -a '{names}'\n");
            for (name, next) in COMMANDS.iter().filter(|(_, next)| !next.is_empty()) {
                text.push_str(&format!(
                    "complete -c mainstem -n '__fish_seen_subcommand_from {name}' -a '{}'\n",
                    next.join(" ")
                ));
            }
            Some(text)
        }
        _ => None,
    }
}

fn function(names: &str) -> String {
    let mut cases = String::new();
    for (name, next) in COMMANDS.iter().filter(|(_, next)| !next.is_empty()) {
        cases.push_str(&format!("    {name}) words=\"{}\" ;;\n", next.join(" ")));
    }
    format!(
        "_mainstem() {{\n  local words=\"{names}\"\n  [ \"$COMP_CWORD\" -gt 1 ] && case \"${{COMP_WORDS[1]}}\" \
         in\n{cases}    *) words=\"\" ;;\n  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \
         \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn bash_completes_commands_and_their_arguments() {
        let script = script("bash").unwrap();
        let complete = |words: &str, at: usize| {
            let ask = format!(
                "{script}\nCOMP_WORDS=({words}); COMP_CWORD={at}; _mainstem; echo \"${{COMPREPLY[*]}}\""
            );
            let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(complete("mainstem do", 1), "doctor");
        assert_eq!(complete("mainstem log v", 2), "verify");
        assert_eq!(complete("mainstem top --o", 2), "--once");
        assert_eq!(complete("mainstem rabbitmqctl zz", 2), "");
        assert!(super::script("tcsh").is_none());
    }
}
