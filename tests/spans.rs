//! Spans and events of `tracing`. In a process of their own: where a test that listens to nothing is the first to say
//! something, tracing may keep it that nobody listens, though another test's thread does.

mod support;

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use tower::ServiceExt;
use tower_keep_alive::{KeepAliveLayer, Protocol, connect::Destination};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_default;
use tracing::{Instrument, Level, Subscriber, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use support::agent::{agent, agent_over, at_rest, fetch, get};
use support::frames::{code, setting};
use support::{Gate, Server, Sockets, eventually, http2};

/// What was said, a line an event or a span's end, with the spans around it.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &match field.name() {
            "message" => format!(" {value:?}"),
            name => format!(" {name}={value:?}"),
        };
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Said {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(extensions.get_mut::<Fields>().unwrap());
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != "tower_keep_alive" {
            return;
        }
        assert_eq!(*event.metadata().level(), Level::DEBUG);
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope(event).into_iter().flatten();
        let spans: Vec<_> = spans.map(|span| span.name()).collect();
        self.push(format!("{}:{}", spans.join("<"), fields.0));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.name() == "checkout" {
            let parent = span.parent().map(|it| it.name()).unwrap_or_default();
            let fields = &span.extensions().get::<Fields>().unwrap().0.clone();
            self.push(format!("checkout in {parent}:{fields}"));
        }
    }
}

impl Said {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn lines(&self, what: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines
            .iter()
            .filter(|it| it.contains(what))
            .cloned()
            .collect()
    }
}

#[tokio::test]
async fn each_checkout_is_a_span_and_each_step_an_event_in_it() {
    let said = Said::default();
    // For this thread, which runs all tasks of the test.
    let _guard = set_default(Registry::default().with(said.clone()));
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().name("billing"));
    for _ in 0..2 {
        fetch(&client, server.url("/"))
            .instrument(info_span!("caller"))
            .await
            .unwrap();
    }
    let spans = said.lines("checkout in caller");
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans[0].contains("reused=false") && spans[1].contains("reused=true"));
    for span in &spans {
        for field in [
            r#"agent="billing""#,
            "key=",
            "connection.id=",
            r#"network.protocol.name="http""#,
            r#"network.protocol.version="1.1""#,
            "waited=",
        ] {
            assert!(span.contains(field), "{span}");
        }
    }
    for event in ["created", "connected", "reused"] {
        let lines = said.lines("checkout<caller:");
        assert!(
            lines.iter().any(|it| it.contains(event)),
            "{event}: {:?}",
            said.lines("")
        );
    }
    handle.close_idle();
    eventually("its end is said", || !said.lines("closed").is_empty()).await;
    let closed = &said.lines("closed")[0];
    assert!(closed.contains("reason=Shutdown") && closed.contains(r#"agent="billing""#));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_34_a_connect_is_in_its_callers_span_also_when_another_is_served_by_it() {
    let said = Said::default();
    // For this thread, which runs all tasks of the test.
    let _guard = set_default(Registry::default().with(said.clone()));
    let server = Server::ok().await;
    let gate = Gate::new();
    let spans = Arc::new(Mutex::new(Vec::new()));
    let (gated, list) = (gate.clone(), spans.clone());
    let connector = tower::service_fn(move |destination: Destination| {
        let (gate, list) = (gated.clone(), list.clone());
        async move {
            let name = || tracing::Span::current().id();
            let before = name();
            gate.pass().await;
            // The same all along, be it in a task of its own by now.
            list.lock().unwrap().push((before.clone(), name()));
            assert_eq!(before, name());
            Sockets.oneshot(destination).await
        }
    });
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let url = server.url("/");
    let first = fetch(&client, &url).instrument(info_span!("first"));
    let second = fetch(&client, &url).instrument(info_span!("second"));
    let steps = async {
        eventually("both connect", || gate.waiting() == 2).await;
        gate.open(1);
        eventually("one is made", || !spans.lock().unwrap().is_empty()).await;
        gate.open(9);
    };
    let (answers, ()) = tokio::join!(
        join_all([
            Box::pin(first) as std::pin::Pin<Box<dyn Future<Output = _>>>,
            Box::pin(second),
        ]),
        steps
    );
    answers.into_iter().for_each(|it| drop(it.unwrap()));
    eventually("both are made", || spans.lock().unwrap().len() == 2).await;
    let made = spans.lock().unwrap().clone();
    assert!(
        made.iter()
            .all(|(before, after)| before.is_some() && before == after)
    );
    assert_ne!(made[0].0, made[1].0, "each in a span of its own");
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_exchange_whose_times_are_wanted_says_them_at_its_end() {
    let said = Said::default();
    // For this thread, which runs all tasks of the test.
    let _guard = set_default(Registry::default().with(said.clone()));
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().timings(true));
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    let [made, reused] = &said.lines("exchanged")[..] else {
        panic!("{:?}", said.lines(""));
    };
    for line in [made, reused] {
        for field in [
            "key=",
            "connection.id=",
            "queue=",
            "response=",
            "body=",
            "total=",
        ] {
            assert!(line.contains(field), "{line}");
        }
    }
    assert!(
        made.contains(" connect=") && !reused.contains(" connect="),
        "{made} {reused}"
    );
    let spans = said.lines("checkout in");
    assert!(
        spans[0].contains(" connect=") && !spans[1].contains(" connect="),
        "{spans:?}"
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn over_http_2_the_version_is_said_and_how_a_connection_drains() {
    let said = Said::default();
    // For this thread, which runs all tasks of the test.
    let _guard = set_default(Registry::default().with(said.clone()));
    let server = http2::Server::start(async |mut conn: http2::Conn| {
        conn.open([(setting::MAX_CONCURRENT_STREAMS, 7)]).await;
        while let Some(request) = conn.request().await {
            let head = [(":status", "200")];
            conn.headers(request.stream, &head, false).await;
            if request.path() == "/away" {
                conn.go_away(request.stream, code::NO_ERROR, b"").await;
            }
        }
    })
    .await;
    let layer = KeepAliveLayer::new()
        .protocol(Protocol::Http2)
        .timings(true);
    let (client, handle) = agent(layer);
    let first = client.request(get(server.url("/"))).await.unwrap();
    let last = client.request(get(server.url("/away"))).await.unwrap();
    eventually("it drains", || !said.lines("draining").is_empty()).await;
    drop((first, last));
    at_rest(&handle).await;
    for (event, fields) in [
        ("connected", &["took="][..]),
        ("capacity changed", &["capacity=7"]),
        ("draining", &["reason=GoAway", "streams=2"]),
        ("closed", &["reason=GoAway"]),
        ("exchanged", &["stream.id=1", "total="]),
    ] {
        let lines = said.lines(event);
        let protocol = [
            r#"network.protocol.name="http""#,
            r#"network.protocol.version="2""#,
        ];
        for field in protocol.iter().chain(fields) {
            let has = lines.first().is_some_and(|it| it.contains(field));
            assert!(has, "{event} {field}: {:?}", said.lines(""));
        }
    }
    assert!(
        !said.lines("created")[0].contains("network."),
        "{:?}",
        said.lines("created")
    );
}
