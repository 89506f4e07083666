//! The files that people are given: they load, they say what the code does, and
//! what is told of the keys is what the keys are.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::super::tree::Node;
use super::super::{Server, key_table, schema, sections};
use super::*;
use crate::pool::server::Place;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn examples() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("examples")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    files
}

fn load(path: &Path) -> Config {
    Config::load(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_file_of_all_defaults_has_the_defaults_of_the_code() {
    let config = load(&root().join("proxy.yaml"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.changes(), []);
    let mut pool = super::super::Pool::named("main");
    pool.servers = vec![Server::at(Place::Embedded); 2];
    pool.name_embedded();
    let expected = Settings {
        route: Some("main".to_owned()),
        pools: vec![pool],
        ..Settings::default()
    };
    assert_eq!(config.settings, expected);
}

#[test]
fn the_file_of_all_defaults_names_every_key() {
    let text = read(&root().join("proxy.yaml"));
    let named: Vec<_> = text
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ', '-']))
        .filter_map(|line| line.split_once(':').map(|(key, _)| key))
        .collect();
    let sections = sections();
    let declared: Vec<_> = sections
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| key.name))
        .collect();
    let count = |names: &[&str], key: &str| names.iter().filter(|name| **name == key).count();
    for key in &declared {
        // A name that several sections have stands there for each.
        assert!(count(&named, key) >= count(&declared, key), "{key}");
    }
}

#[test]
fn what_is_commented_out_would_load_too() {
    let text = read(&root().join("proxy.yaml"));
    // One way to say a thing excludes another, and some need a third.
    let excluded = [
        "listen: 127.0.0.1:11311",
        "servers: [embedded, embedded]",
        "#hash_tag",
        "#seed",
        "#range_start",
        "#shards",
        "#- primary",
        "#replicas",
        "#- address: 192.0.2.5",
        "#zone: a",
        "#name: shard-1",
        "#weight: 2",
    ];
    let kept = text.lines().filter(|line| {
        let line = line.trim_start();
        !excluded.iter().any(|start| line.starts_with(start))
    });
    let uncommented = kept.map(|line| match line.split_once('#') {
        Some((before, after)) if before.trim().is_empty() && !after.starts_with(' ') => {
            format!("{before}{after}\n")
        }
        _ => format!("{line}\n"),
    });
    let settings = settings(&uncommented.collect::<String>());
    assert_eq!(settings.listen.len(), 2);
    assert_eq!(settings.listen[1].mode, Some(0o660));
    let pool = &settings.pools[0];
    assert_eq!(pool.servers.len(), 3);
    assert_eq!(pool.placement.hash_stop.as_deref(), Some("|#|"));
}

#[test]
fn every_example_loads_without_a_warning() {
    let names: Vec<_> = examples()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let expected = [
        "libmemcached-compatible.yaml",
        "mcrouter-like.yaml",
        "minimal.yaml",
        "replicas.yaml",
        "twemproxy-replacement.yaml",
        "unix-socket.yaml",
    ];
    assert_eq!(names, expected);
    for path in examples() {
        let config = load(&path);
        assert_eq!(config.warnings, [], "{}", path.display());
        let remote = |server: &Server| match &server.place {
            Place::Remote(address) => address.to_string(),
            Place::Embedded => String::new(),
        };
        for server in config.settings.pools.iter().flat_map(|pool| &pool.servers) {
            let address = remote(server);
            assert!(
                address.starts_with("192.0.2.") || address.starts_with("unix:/"),
                "{}: {address} is nobody's to use in an example",
                path.display()
            );
        }
    }
}

/// Compares a generated part of the documentation, or writes it anew.
fn assert_generated(path: &Path, generated: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, generated).unwrap();
    }
    assert!(
        read(path) == generated,
        "{} is not what the code says: UPDATE_DOCS=1 cargo test",
        path.display()
    );
}

#[test]
fn the_documentation_has_the_table_of_the_code() {
    const BEGIN: &str = "<!-- The tables below are written by `UPDATE_DOCS=1 cargo test`. -->\n\n";
    let path = root().join("docs/configuration.md");
    let text = read(&path);
    let (prose, _) = text.split_once(BEGIN).unwrap();
    let tables = key_table();
    assert_generated(&path, &format!("{prose}{BEGIN}{}\n", tables.trim_end()));
}

#[test]
fn the_schema_file_is_the_schema_of_the_code() {
    let path = root().join("docs/config.schema.json");
    let text = serde_json::to_string_pretty(&schema()).unwrap();
    assert_generated(&path, &format!("{text}\n"));
}

/// What a file says, as JSON.
fn json(node: &Node) -> Json {
    match node {
        Node::Null | Node::Tagged(_) => Json::Null,
        Node::Bool(value) => (*value).into(),
        Node::Int(value) => i64::try_from(*value).unwrap().into(),
        Node::Float(value) => (*value).into(),
        Node::Text(text) => text.as_str().into(),
        Node::List(items) => items.iter().map(json).collect(),
        Node::Map(entries) => {
            let entries = entries.iter();
            entries
                .map(|(key, value)| (key.clone(), json(value)))
                .collect()
        }
    }
}

/// Whether `value` is what `schema` says. Knows just the words that our schema
/// has, and panics at others.
fn conforms(schema: &Json, value: &Json) -> Result<(), String> {
    let whole = super::super::schema();
    conforms_to(&whole, schema, value)
}

fn conforms_to(whole: &Json, schema: &Json, value: &Json) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{value}: {why}"));
    for (word, rule) in schema.as_object().unwrap() {
        let number = || rule.as_f64().unwrap();
        match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "required" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                conforms_to(whole, whole.pointer(pointer).unwrap(), value)?;
            }
            "type" => {
                let is_it = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                };
                if !is_it {
                    return wrong(&format!("is not of type {rule}"));
                }
            }
            "enum" if !rule.as_array().unwrap().contains(value) => return wrong("is none"),
            "const" if rule != value => return wrong("is another"),
            "minimum" if value.as_f64().is_some_and(|v| v < number()) => return wrong("is small"),
            "maximum" if value.as_f64().is_some_and(|v| v > number()) => return wrong("is large"),
            "pattern" => regex_matches(rule.as_str().unwrap(), value)?,
            "anyOf" => {
                let choices = rule.as_array().unwrap().iter();
                let results: Vec<_> = choices
                    .map(|choice| conforms_to(whole, choice, value))
                    .collect();
                if results.iter().all(Result::is_err) {
                    return Err(format!("{results:?}"));
                }
            }
            "minItems" if value.as_array().is_some_and(Vec::is_empty) => return wrong("is empty"),
            "minProperties" if value.as_object().is_some_and(|map| map.is_empty()) => {
                return wrong("is empty");
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    conforms_to(whole, rule, item)?;
                }
            }
            "properties" | "additionalProperties" => {}
            "enum" | "const" | "minimum" | "maximum" | "minItems" | "minProperties" => {}
            other => panic!("the schema says {other}"),
        }
    }
    let Some(entries) = value.as_object() else {
        return Ok(());
    };
    for key in schema["required"].as_array().into_iter().flatten() {
        if !entries.contains_key(key.as_str().unwrap()) {
            return wrong(&format!("lacks {key}"));
        }
    }
    for (key, value) in entries {
        match (
            schema["properties"].get(key),
            &schema["additionalProperties"],
        ) {
            (Some(known), _) => conforms_to(whole, known, value)?,
            (None, Json::Bool(false)) => return Err(format!("unknown key {key}")),
            (None, Json::Null) => {}
            (None, any) => conforms_to(whole, any, value)?,
        }
    }
    Ok(())
}

/// The patterns of the schema are few: each is matched by hand.
fn regex_matches(pattern: &str, value: &Json) -> Result<(), String> {
    let Json::String(text) = value else {
        return Ok(());
    };
    let units = |units: &[&str]| {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.len() < text.len() && units.iter().any(|unit| rest.starts_with(unit))
    };
    let octal = |text: &str| text.chars().all(|c| ('0'..='7').contains(&c));
    let matches = match pattern {
        "^(0|([0-9]+(d|h|m|s|ms|us))+)$" => text == "0" || units(&["d", "h", "m", "s", "us"]),
        "^(0|[0-9]+(TiB|GiB|MiB|KiB|B))$" => {
            text == "0" || units(&["TiB", "GiB", "MiB", "KiB", "B"])
        }
        "^[^\\u0000-\\u001f]+$" => !text.is_empty() && !text.chars().any(char::is_control),
        "^[\\u0001-\\u007f]{2}$" => text.len() == 2,
        "^.{1,16}$" => (1..=16).contains(&text.chars().count()),
        "^([0-9]|[1-9][0-9]|100)%$" => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok());
            percent.is_some_and(|percent: u32| percent <= 100)
        }
        "^[1-9][0-9]?%$" => text.ends_with('%'),
        "^/" => text.starts_with('/'),
        "^(0o)?0?[0-7]{1,3}$" => octal(text.trim_start_matches("0o")),
        other => panic!("the schema has the pattern {other}"),
    };
    if matches {
        Ok(())
    } else {
        Err(format!("'{text}' does not match {pattern}"))
    }
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema = schema();
    let mut files = examples();
    files.push(root().join("proxy.yaml"));
    for path in files {
        let value = json(&Node::parse(&read(&path)).unwrap());
        if let Err(why) = conforms(&schema, &value) {
            panic!("{}: {why}", path.display());
        }
    }
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let schema = schema();
    let refused = [
        "log: info",
        "pools: {}",
        "pools: {main: {servers: []}}",
        "pools: {main: {servers: [embedded], timeot: 1s}}",
        "pools: {main: {servers: [embedded], timeout: 400}}",
        "pools: {main: {servers: [embedded], queue_bytes_max: 1MB}}",
        "pools: {main: {servers: [embedded], failures: 0}}",
        "pools: {main: {servers: [embedded], preconnect: 'yes'}}",
        "pools: {main: {servers: [embedded], hash: fnv1a64}}",
        "pools: {main: {servers: [{name: x}]}}",
        "{listen: [], pools: {main: {servers: [embedded]}}}",
        "{workers: many, pools: {main: {servers: [embedded]}}}",
    ];
    for yaml in refused {
        assert!(Config::parse("test.yaml", yaml).is_err(), "{yaml}");
        let value = json(&Node::parse(yaml).unwrap());
        assert!(conforms(&schema, &value).is_err(), "{yaml}");
    }
}

#[test]
fn every_default_of_the_schema_is_one_that_it_takes() {
    fn walk(schema: &Json) {
        if let Some(default) = schema.get("default") {
            let result = conforms(schema, default);
            assert_eq!(result, Ok(()), "{schema}");
        }
        match schema {
            Json::Object(fields) => fields.values().for_each(walk),
            Json::Array(items) => items.iter().for_each(walk),
            _ => {}
        }
    }
    walk(&schema());
}
