//! What the page has to show, worked out again from what it was told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The beats of a minute, in order; the page shows the last one.
pub(crate) struct Told(Vec<Value>);

/// What happened in some beats.
#[derive(Default)]
struct Happened {
    errors: u64,
    timeouts: u64,
    queued: u64,
    queue_time: f64,
    longest: f64,
}

impl Told {
    /// The beat of this time, and those of the minute before it.
    pub(crate) fn of_minute(beats: &[Value], at: u64) -> Option<Self> {
        let last = beats.iter().position(|beat| number(&beat["at"]) == at)?;
        let minute = beats[..=last]
            .iter()
            .filter(|beat| number(&beat["at"]) + 60_000 >= at);
        Some(Self(minute.cloned().collect()))
    }

    fn last(&self) -> &Value {
        self.0.last().expect("the page shows a beat")
    }

    fn status(&self) -> &Value {
        &self.last()["status"]
    }

    /// By how much a counter of the status went up in the minute.
    fn more(&self, name: &str) -> u64 {
        number(&self.status()[name]) - number(&self.0[0]["status"][name])
    }

    /// The texts of the tiles.
    pub(crate) fn all(&self) -> Value {
        let status = self.status();
        let sum = |map: &str| sizes(&status[map]).map(|(_, size)| size).sum::<u64>();
        let (active, idle) = (sum("sockets"), sum("freeSockets"));
        let recently = Happened::of(&self.0[1..], None);
        let (reused, created) = (
            self.more("reusedSocketCount"),
            self.more("createSocketCount"),
        );
        let seconds = (number(&self.last()["at"]) - number(&self.0[0]["at"])) as f64 / 1000.0;
        let closed = |kind: &str| {
            let closes = sizes(&status["closes"]);
            let closes =
                closes.filter(|(reason, _)| self.last()["reasons"][reason]["kind"] == kind);
            grouped(closes.map(|(_, count)| count).sum())
        };
        json!({
            "open": grouped(active + idle),
            "active": grouped(active),
            "idle": grouped(idle),
            "streams": self.all_streams(),
            "queued": grouped(sum("requests")),
            "queue-time": recently.mean().map_or("–".to_owned(), millis),
            "longest-queue-time": recently.mean().map_or("–".to_owned(), |_| millis(recently.longest)),
            "rate": grouped((self.more("answeredRequestCount") as f64 / seconds).round() as u64),
            "reuse": format!("{} %", decimal(100.0 * reused as f64 / (reused + created) as f64)),
            "errors": grouped(recently.errors),
            "all-errors": closed("error"),
            "timeouts": grouped(recently.timeouts),
            "all-timeouts": closed("timeout"),
            "started": grouped(number(&status["startedRequestCount"])),
            "answered": grouped(number(&status["answeredRequestCount"])),
            "completed": grouped(number(&status["requestCount"])),
            "failed": grouped(number(&status["failedRequestCount"])),
            "created": grouped(number(&status["createSocketCount"])),
            "closed": grouped(number(&status["closeSocketCount"])),
        })
    }

    fn all_streams(&self) -> String {
        let pools = self.status()["protocols"].as_object();
        let shared = pools.into_iter().flat_map(|pools| pools.values());
        let shared: Vec<_> = shared.filter(|it| number(&it["http2"]) > 0).collect();
        let sum = |name: &str| grouped(shared.iter().map(|it| number(&it[name])).sum());
        match shared.is_empty() {
            true => "no HTTP/2".to_owned(),
            false => format!(
                "{} of {} streams of HTTP/2",
                sum("streams"),
                sum("capacity")
            ),
        }
    }

    /// The rows of the table of reasons.
    pub(crate) fn closes(&self) -> Value {
        let rows = sizes(&self.status()["closes"]).map(|(reason, count)| {
            let about = &self.last()["reasons"][reason];
            let words = about["words"].as_str().expect("words");
            // In words, not by the name that the status has.
            assert!(words.contains(' ') && words != reason, "{words}");
            let row = json!({ "words": words, "count": grouped(count), "kind": about["kind"] });
            (reason.to_owned(), row)
        });
        json!(rows.collect::<BTreeMap<_, _>>())
    }

    /// The button.
    pub(crate) fn close_idle(&self) -> Value {
        let idle = sizes(&self.status()["freeSockets"])
            .map(|(_, size)| size)
            .sum();
        json!({ "text": format!("Close {}", several(idle, "idle connection")), "disabled": idle == 0 })
    }

    /// The pools that had something in the minute, in order.
    pub(crate) fn pools(&self) -> Vec<String> {
        let mut keys = BTreeSet::new();
        for beat in &self.0 {
            for map in [
                &beat["status"]["sockets"],
                &beat["status"]["freeSockets"],
                &beat["status"]["requests"],
                &beat["pools"],
            ] {
                keys.extend(map.as_object().expect("a map").keys().cloned());
            }
        }
        keys.into_iter().collect()
    }

    /// The card of a pool: now, and in the last minute.
    pub(crate) fn pool(&self, key: &str) -> Value {
        self.card(key, &Happened::of(&self.0[1..], Some(key)))
    }

    /// The same while the last of these beats is pointed at.
    pub(crate) fn pool_at_the_end(&self, key: &str) -> Value {
        self.card(key, &Happened::of(&self.0[self.0.len() - 1..], Some(key)))
    }

    fn card(&self, key: &str, then: &Happened) -> Value {
        let size = |map: &str| self.status()[map].get(key).map_or(0, number);
        let queue_time = then.mean().map_or("nobody queued".to_owned(), |mean| {
            format!(
                "{} in the queue, longest {}",
                millis(mean),
                millis(then.longest)
            )
        });
        json!({
            "at": self.last()["at"],
            "name": short(key),
            "active": format!("{} active", grouped(size("sockets"))),
            "idle": format!("{} idle", grouped(size("freeSockets"))),
            "queued": format!("{} in the queue", grouped(size("requests"))),
            "protocol": speaks(&self.status()["protocols"][key]),
            "errors": several(then.errors, "error"),
            "timeouts": several(then.timeouts, "timeout"),
            "queue-time": queue_time,
        "limit": self.last()["limit"].as_u64().map(|limit| format!("limit: {}", several(limit, "connection"))),
            "times": "−60 s, −45 s, −30 s, −15 s, now",
        })
    }

    /// The pools that were the busiest of the minute at one of the last beats.
    pub(crate) fn busiest_at_the_end(&self, beats: usize) -> Vec<Value> {
        let ends = self.0.len().saturating_sub(beats) + 1..=self.0.len();
        let busiest = ends.filter_map(|end| {
            let mut busy = BTreeMap::<&str, u64>::new();
            for beat in &self.0[..end] {
                for map in ["sockets", "requests"] {
                    for (key, size) in sizes(&beat["status"][map]) {
                        *busy.entry(key).or_default() += size;
                    }
                }
            }
            let most = busy.values().max().copied()?;
            busy.into_iter()
                .find(|(_, size)| *size == most)
                .map(|(key, _)| json!(key))
        });
        busiest.collect()
    }
}

impl Happened {
    /// In one pool, or in all.
    fn of(beats: &[Value], key: Option<&str>) -> Self {
        let mut all = Self::default();
        for beat in beats {
            let pools = beat["pools"].as_object().expect("a map");
            for (_, counts) in pools
                .iter()
                .filter(|(name, _)| key.is_none_or(|key| *name == key))
            {
                let time = |name: &str| counts[name].as_f64().expect("a time");
                all.errors += number(&counts["errors"]);
                all.timeouts += number(&counts["timeouts"]);
                all.queued += number(&counts["queued"]);
                all.queue_time += time("queueTime");
                all.longest = all.longest.max(time("longestQueueTime"));
            }
        }
        all
    }

    fn mean(&self) -> Option<f64> {
        (self.queued > 0).then(|| self.queue_time / self.queued as f64)
    }
}

/// What the connections of a pool speak.
fn speaks(protocols: &Value) -> String {
    if protocols.is_null() {
        return "not connected".to_owned();
    }
    let of = |name: &str| number(&protocols[name]);
    let mut text = match (of("http2"), of("http1")) {
        (0, _) => return "HTTP/1".to_owned(),
        (_, 0) => "HTTP/2".to_owned(),
        _ => "HTTP/2 and HTTP/1".to_owned(),
    };
    text += &format!(
        ", {} of {} streams",
        grouped(of("streams")),
        grouped(of("capacity"))
    );
    if of("draining") > 0 {
        text += &format!(", {} draining", grouped(of("draining")));
    }
    text
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a count")
}

fn sizes(map: &Value) -> impl Iterator<Item = (&str, u64)> {
    let map = map.as_object().expect("a map");
    map.iter().map(|(key, size)| (key.as_str(), number(size)))
}

/// Node's name of a pool, without what says nothing.
pub(crate) fn short(key: &str) -> &str {
    key.trim_end_matches(':')
}

fn several(count: u64, one: &str) -> String {
    format!(
        "{} {one}{}",
        grouped(count),
        if count == 1 { "" } else { "s" }
    )
}

/// `1234567` as `1,234,567`.
fn grouped(count: u64) -> String {
    let mut text = count.to_string();
    for place in (1..text.len())
        .rev()
        .filter(|it| (text.len() - it).is_multiple_of(3))
        .collect::<Vec<_>>()
    {
        text.insert(place, ',');
    }
    text
}

/// As `toFixed(1)` has it, which does not round a half to the even digit.
fn decimal(value: f64) -> String {
    format!("{:.1}", (value * 10.0).round() / 10.0)
}

fn millis(time: f64) -> String {
    match time {
        it if it < 10.0 => format!("{} ms", decimal(it)),
        it if it < 999.5 => format!("{} ms", it.round()),
        it => format!("{} s", decimal(it / 1000.0)),
    }
}
