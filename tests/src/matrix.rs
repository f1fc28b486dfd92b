//! The any-to-any matrix: who publishes how, who reads how, and how many copies each cell gives.
//! All of it is data, in `interop/matrix.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Deserialize)]
pub struct Matrix {
    pub publishers: BTreeMap<String, Publisher>,
    pub exchanges: BTreeMap<String, Exchange>,
    pub readers: BTreeMap<String, Reader>,
    columns: Vec<String>,
    copies: BTreeMap<String, Vec<u32>>,
}

/// A protocol and its version, as the client programs know them.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Amqp,
    Mqtt311,
    Mqtt5,
    Rocketmq,
    Http,
}

/// How a row publishes; `{token}` stands for the message's own name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Publisher {
    pub by: By,
    #[serde(default)]
    pub exchange: String,
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub topic: String,
    #[serde(default)]
    pub tag: String,
}

/// An exchange that exists before anybody publishes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub kind: String,
    /// Declared with `x-address = "none"`.
    pub hidden: bool,
}

/// How a column reads; `{lang}` stands for the client program's language.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    pub by: By,
    #[serde(default)]
    pub queue: String,
    #[serde(default)]
    pub binds: Vec<(String, String)>,
    #[serde(default)]
    pub stream: bool,
    #[serde(default)]
    pub filter: String,
    #[serde(default)]
    pub qos: u8,
    #[serde(default)]
    pub client_id: String,
    #[serde(default)]
    pub topic: String,
    #[serde(default)]
    pub group: String,
    #[serde(default)]
    pub expression: String,
    #[serde(default)]
    pub sql: bool,
    /// The client programs share the messages; else each gets its own copy.
    #[serde(default)]
    pub together: bool,
}

impl Matrix {
    /// The matrix of the repository.
    #[must_use]
    pub fn load() -> Self {
        let matrix: Self = serde_json::from_str(include_str!("../interop/matrix.json")).unwrap();
        let readers: Vec<_> = matrix.readers.keys().collect();
        let mut columns: Vec<_> = matrix.columns.iter().collect();
        columns.sort();
        assert_eq!(columns, readers, "`columns` must name every reader once");
        assert!(matrix.publishers.keys().eq(matrix.copies.keys()));
        assert!(matrix.copies.values().all(|row| row.len() == readers.len()));
        matrix
    }

    /// How many copies of what `publisher` sends reach `reader`.
    #[must_use]
    pub fn copies(&self, publisher: &str, reader: &str) -> u32 {
        let column = self.columns.iter().position(|column| column == reader).unwrap();
        self.copies[publisher][column]
    }
}

impl Publisher {
    /// The same for one message.
    #[must_use]
    pub fn named(&self, token: &str) -> Self {
        let put = |text: &str| text.replace("{token}", token);
        Self { key: put(&self.key), topic: put(&self.topic), ..self.clone() }
    }
}

impl Reader {
    /// The same for one client program.
    #[must_use]
    pub fn named(&self, language: &str) -> Self {
        let put = |text: &str| text.replace("{lang}", language);
        Self {
            queue: put(&self.queue),
            client_id: put(&self.client_id),
            group: put(&self.group),
            ..self.clone()
        }
    }
}

impl By {
    #[must_use]
    pub fn is_mqtt(self) -> bool {
        matches!(self, Self::Mqtt311 | Self::Mqtt5)
    }
}
