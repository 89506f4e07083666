//! What the tables of keys tell people and tools: the key table of the
//! documentation and the JSON schema.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::key::SectionDoc;
use super::keys::{CLIENTS, LISTENER, POOL, SERVER, SHARD, TOP};

/// All sections, in the order in which they are told.
pub fn sections() -> Vec<SectionDoc> {
    vec![
        TOP.doc(),
        LISTENER.doc(),
        CLIENTS.doc(),
        POOL.doc(),
        SERVER.doc(),
        SHARD.doc(),
    ]
}

/// The tables of all keys, in Markdown.
pub fn key_table() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for section in sections() {
        let _ = writeln!(text, "### `{}`\n\n{}\n", section.name, section.help);
        text.push_str("| key | value | default | what it does |\n| --- | --- | --- | --- |\n");
        for key in section.keys {
            let default = match key.default.as_str() {
                words @ ("required" | "none") => words.to_owned(),
                words if words.contains(' ') => words.to_owned(),
                value => format!("`{value}`"),
            };
            let bound = match key.bound {
                "" => String::new(),
                bound => format!(" *At the bound:* {bound}"),
            };
            let (name, value, help) = (key.name, key.value, key.help);
            let _ = writeln!(text, "| `{name}` | {value} | {default} | {help}{bound} |");
        }
        text.push('\n');
        if !section.twemproxys.is_empty() {
            text.push_str("| twemproxy's key | here |\n| --- | --- |\n");
        }
        for (theirs, ours) in section.twemproxys {
            let ours = ours.replace('\'', "`");
            let _ = writeln!(text, "| `{theirs}` | {ours} |");
        }
        text.push_str(if section.twemproxys.is_empty() {
            ""
        } else {
            "\n"
        });
    }
    text
}

/// The JSON schema of the configuration, draft 2020-12.
pub fn schema() -> Json {
    let mut schema = TOP.schema();
    let definitions = [
        (LISTENER.definition, LISTENER.schema()),
        (CLIENTS.definition, CLIENTS.schema()),
        (POOL.definition, POOL.schema()),
        (SERVER.definition, SERVER.schema()),
        (SHARD.definition, SHARD.schema()),
    ];
    if let Json::Object(fields) = &mut schema {
        let definitions = definitions.map(|(name, schema)| (name.to_owned(), schema));
        fields.insert("$defs".to_owned(), definitions.into_iter().collect());
        let draft = "https://json-schema.org/draft/2020-12/schema";
        fields.insert("$schema".to_owned(), json!(draft));
        fields.insert("title".to_owned(), json!("Configuration of ketch"));
    }
    schema
}
