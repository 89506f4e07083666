//! The files of exchanges: read, checked, and resolved for a target.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::frame::{Raw, RawRequest, RawResponse};
use super::text::Text;
use crate::target::{Kind, Target, Version};

/// One file of exchanges.
#[derive(Debug)]
pub(super) struct File {
    /// Its name without directory and ending.
    pub(super) name: String,
    pub(super) exchanges: Vec<Exchange>,
}

/// One behaviour: what is sent and what must come back.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) name: String,
    steps: Vec<Step>,
    only: Vec<Kind>,
    except: Vec<Way>,
    skip: Option<Range<Version>>,
}

/// How the exchanges of a file are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    /// A connection for each exchange, a write for each step.
    Whole,
    /// A write for each byte.
    Bytes,
    /// Writes cut at random.
    Random,
    /// All steps in one write, as far as they do not need earlier answers.
    Pipelined,
    /// All exchanges of the file one after another on one connection.
    OneConnection,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::Whole,
        Self::Bytes,
        Self::Random,
        Self::Pipelined,
        Self::OneConnection,
    ];
}

#[derive(Debug)]
struct Step {
    conn: u32,
    send: Text,
    expect: Text,
    until: bool,
    closes: bool,
    /// Answers of old releases, oldest first.
    old: Vec<(Version, Answer)>,
    /// The answer of our own servers.
    ours: Option<Answer>,
    /// The answer of our proxy.
    proxy: Option<Answer>,
}

/// What differs in the answer of an old release, or of our own servers.
#[derive(Debug)]
struct Answer {
    expect: Option<Text>,
    closes: Option<bool>,
}

/// A step as one target must answer it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolved<'a> {
    /// Which connection of the exchange.
    pub(super) conn: u32,
    pub(super) send: &'a Text,
    pub(super) expect: &'a Text,
    /// Send again and again until the answer is this one.
    pub(super) until: bool,
    /// The server closes the connection after its answer.
    pub(super) closes: bool,
}

impl Exchange {
    /// Whether the exchange says something about this target.
    pub(super) fn is_for(&self, target: &Target) -> bool {
        let kind = self.only.is_empty() || self.only.contains(&target.kind);
        let skipped = self
            .skip
            .as_ref()
            .is_some_and(|skip| skip.contains(&target.version));
        kind && !skipped && !self.is_undecided_for(target)
    }

    /// Whether old servers behind a proxy answer something else than the proxy
    /// would itself: nothing can be said of the two together.
    fn is_undecided_for(&self, target: &Target) -> bool {
        let Some(behind) = target.behind else {
            return false;
        };
        self.steps.iter().any(|step| {
            step.proxy.is_none()
                && step.ours.is_none()
                && step.old.iter().any(|(before, _)| behind < *before)
        })
    }

    /// Whether the target answers the same when it is played in this way.
    pub(super) fn holds_in(&self, way: Way, target: &Target) -> bool {
        target.kind != Kind::Memcached || !self.except.contains(&way)
    }

    /// The steps with the answers that `target` must give.
    pub(super) fn steps<'a>(&'a self, target: &Target) -> Vec<Resolved<'a>> {
        self.steps
            .iter()
            .map(|step| {
                let old = step.old.iter().find(|(before, _)| target.version < *before);
                let proxy = step.proxy.as_ref().filter(|_| target.kind == Kind::Proxy);
                let ours = step
                    .ours
                    .as_ref()
                    .filter(|_| target.kind != Kind::Memcached);
                let other = proxy.or(ours).or(old.map(|(_, answer)| answer));
                Resolved {
                    conn: step.conn,
                    send: &step.send,
                    expect: other
                        .and_then(|answer| answer.expect.as_ref())
                        .unwrap_or(&step.expect),
                    until: step.until,
                    closes: other
                        .and_then(|answer| answer.closes)
                        .unwrap_or(step.closes),
                }
            })
            .collect()
    }
}

/// Reads every `*.toml` of `directory`, sorted by name.
pub(super) fn read_all(directory: &Path) -> Result<Vec<File>, String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    paths
        .iter()
        .map(|path| read(path).map_err(|error| format!("{}: {error}", path.display())))
        .collect()
}

fn read(path: &Path) -> Result<File, String> {
    let source = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let raw: RawFile = toml::from_str(&source).map_err(|error| error.to_string())?;
    let mut names = HashSet::new();
    let exchanges = raw
        .exchange
        .into_iter()
        .map(|raw| {
            let name = raw.name.clone();
            if !names.insert(name.clone()) {
                return Err(format!("two are named {name:?}"));
            }
            check(raw).map_err(|error| format!("{name:?}: {error}"))
        })
        .collect::<Result<_, _>>()?;
    let name = path.file_stem().unwrap_or_default();
    Ok(File {
        name: name.to_string_lossy().into_owned(),
        exchanges,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    exchange: Vec<RawExchange>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExchange {
    name: String,
    steps: Vec<RawStep>,
    #[serde(default)]
    only: Vec<Kind>,
    #[serde(default)]
    except: Vec<Way>,
    skip: Option<RawSkip>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSkip {
    from: String,
    before: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    #[serde(default = "first")]
    conn: u32,
    #[serde(default)]
    send: Option<Raw<RawRequest>>,
    expect: Option<Raw<RawResponse>>,
    until: Option<Raw<RawResponse>>,
    #[serde(default)]
    closes: bool,
    #[serde(default)]
    old: Vec<RawOld>,
    ours: Option<RawAnswer>,
    proxy: Option<RawAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOld {
    before: String,
    expect: Option<Raw<RawResponse>>,
    closes: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnswer {
    expect: Option<Raw<RawResponse>>,
    closes: Option<bool>,
}

fn first() -> u32 {
    1
}

fn check(raw: RawExchange) -> Result<Exchange, String> {
    let restricted = !raw.only.is_empty() || !raw.except.is_empty() || raw.skip.is_some();
    if restricted != raw.reason.is_some() {
        return Err("`only`, `except` and `skip` go with a `reason`, and it with them".into());
    }
    if raw.steps.is_empty() {
        return Err("an exchange without steps".into());
    }
    let steps: Vec<Step> = raw
        .steps
        .into_iter()
        .enumerate()
        .map(|(at, raw)| check_step(raw).map_err(|error| format!("step {}: {error}", at + 1)))
        .collect::<Result<_, _>>()?;
    for (at, step) in steps.iter().enumerate() {
        let used_again = steps[at + 1..].iter().any(|later| later.conn == step.conn);
        if step.closes && used_again {
            return Err(format!("step {} closes a connection used later", at + 1));
        }
    }
    let skip = raw
        .skip
        .map(|skip| Ok::<_, String>(skip.from.parse()?..skip.before.parse()?))
        .transpose()?;
    Ok(Exchange {
        name: raw.name,
        steps,
        only: raw.only,
        except: raw.except,
        skip,
    })
}

fn check_step(raw: RawStep) -> Result<Step, String> {
    if raw.conn == 0 {
        return Err("connections count from 1".into());
    }
    let until = raw.until.is_some();
    if until && (raw.expect.is_some() || raw.closes) {
        return Err("`until` stands in the place of `expect`, and nothing closes".into());
    }
    let mut old = Vec::new();
    for raw in raw.old {
        let before: Version = raw.before.parse()?;
        if old.last().is_some_and(|(last, _)| *last >= before) {
            return Err("`old` goes from the oldest release to the newest".into());
        }
        old.push((before, check_answer(raw.expect, raw.closes)?));
    }
    Ok(Step {
        conn: raw.conn,
        send: match raw.send {
            Some(send) => send.text()?,
            None => Text::default(),
        },
        expect: match raw.expect.or(raw.until) {
            Some(expect) => expected(&expect)?,
            None => Text::default(),
        },
        until,
        closes: raw.closes,
        old,
        ours: other(raw.ours)?,
        proxy: other(raw.proxy)?,
    })
}

fn other(raw: Option<RawAnswer>) -> Result<Option<Answer>, String> {
    raw.map(|raw| check_answer(raw.expect, raw.closes))
        .transpose()
}

fn check_answer(expect: Option<Raw<RawResponse>>, closes: Option<bool>) -> Result<Answer, String> {
    if expect.is_none() && closes.is_none() {
        return Err("another answer which says nothing".into());
    }
    Ok(Answer {
        expect: expect.as_ref().map(expected).transpose()?,
        closes,
    })
}

fn expected(source: &Raw<RawResponse>) -> Result<Text, String> {
    let text = source.text()?;
    if text.ends_with_bytes() {
        Ok(text)
    } else {
        Err(format!(
            "the end of {source:?} cannot be seen: end it with \\r\\n"
        ))
    }
}
