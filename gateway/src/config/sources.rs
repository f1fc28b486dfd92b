//! Where settings come from: the file, what stands in `conf.d` beside it, the environment, and the command line,
//! the last one winning.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{ConfigError, Layer};

/// Names the file where no argument does.
const FILE_VARIABLE: &str = "MAINSTEM_CONFIG";
/// Read where nothing names a file, if it is there.
const FILE: &str = "/etc/mainstem/mainstem.toml";
/// Begins the variables that set a key: `MAINSTEM__LISTENERS__MQTT__BIND`.
const PREFIX: &str = "MAINSTEM__";

/// What says where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// `a.b=c`, in their order.
    pub sets: Vec<String>,
}

impl Sources {
    /// Reads them all, as they are now.
    pub fn layers(&self) -> Result<Vec<Layer>, ConfigError> {
        let variables = env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        self.layers_with(variables.collect())
    }

    fn layers_with(&self, variables: Vec<(String, String)>) -> Result<Vec<Layer>, ConfigError> {
        let named = variables.iter().find(|(name, _)| name == FILE_VARIABLE);
        let named = named.filter(|(_, path)| !path.is_empty()).map(|(_, path)| path.into());
        let usual = || Some(PathBuf::from(FILE)).filter(|path| path.exists());
        let mut layers = Vec::new();
        if let Some(file) = self.file.clone().or(named).or_else(usual) {
            let folder = file.parent().unwrap_or_else(|| Path::new("")).join("conf.d");
            layers.push(Layer::read(file)?);
            for path in beside(&folder)? {
                layers.push(Layer::read(path)?);
            }
        }
        let mut set: Vec<_> =
            variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        // Their order in the environment says nothing.
        set.sort();
        layers.extend(set.into_iter().map(|(name, value)| {
            let key = name.strip_prefix(PREFIX).unwrap_or_default();
            let key = key.to_lowercase().replace("__", ".");
            Layer::Variable { name, key, value }
        }));
        layers.extend(self.sets.iter().cloned().map(Layer::Set));
        Ok(layers)
    }
}

/// The files of a folder, by name; none where there is no folder.
fn beside(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let wrong = |error: std::io::Error| ConfigError::Read(folder.to_owned(), error.to_string());
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, explain};

    #[test]
    fn each_layer_is_over_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.toml");
        let beside = folder.path().join("conf.d");
        fs::create_dir(&beside).unwrap();
        fs::write(&file, "[store]\ncommands_max = 1\nwriters_max = 1\n[mqtt]\nflaps_max = 1")
            .unwrap();
        fs::write(beside.join("20.toml"), "[store]\ncommands_max = 3").unwrap();
        fs::write(beside.join("10.toml"), "[store]\ncommands_max = 2\nwriters_max = 2").unwrap();
        fs::write(beside.join("30.txt"), "no toml").unwrap();
        let variables = [
            ("MAINSTEM__MQTT__FLAPS_MAX", "4"),
            ("MAINSTEM__LISTENERS__MQTT__BIND", "127.0.0.1:7"),
            ("MAINSTEM__DATA_DIR", "/by/variable"),
            ("MAINSTEM_TOOLS", "not ours"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let sources = Sources { file: Some(file), sets: vec!["data_dir=/by/set".to_owned()] };
        let layers = sources.layers_with(variables).unwrap();
        let config = Config::load(&layers).unwrap();
        assert_eq!((config.store.commands_max, config.store.writers_max), (3, 2));
        assert_eq!((config.mqtt.flaps_max, config.data_dir.to_str()), (4, Some("/by/set")));
        assert_eq!(config.listeners.mqtt.bind.port(), 7);
        let told = explain::lines(&layers).unwrap();
        let origin = |key: &str| {
            let found = told.iter().find(|line| line.starts_with(&format!("{key} = ")));
            found.unwrap().split_once("  # ").unwrap().1.to_owned()
        };
        assert!(origin("store.commands_max").ends_with("conf.d/20.toml line 2"));
        assert!(origin("store.writers_max").ends_with("conf.d/10.toml line 3"));
        assert_eq!(origin("listeners.mqtt.bind"), "MAINSTEM__LISTENERS__MQTT__BIND");
        assert_eq!(origin("data_dir"), "--set data_dir");
        assert_eq!(origin("drain_ms_max"), "default");
    }

    #[test]
    fn a_variable_that_sets_no_key_is_named() {
        let variables = vec![("MAINSTEM__STOER__X".to_owned(), "1".to_owned())];
        let layers = Sources::default().layers_with(variables).unwrap();
        let told = Config::load(&layers).unwrap_err().to_string();
        assert_eq!(told, "MAINSTEM__STOER__X: unknown key 'stoer' (did you mean 'store'?)");
        let named = vec![("MAINSTEM_CONFIG".to_owned(), "/no/such.toml".to_owned())];
        let told = Sources::default().layers_with(named).unwrap_err().to_string();
        assert!(told.starts_with("cannot read the configuration file /no/such.toml"), "{told}");
    }
}
