//! Calls of gRPC through the agent, by tonic: one answer to one message, a stream of answers, streams both ways, and how calls
//! fail. All of them share one HTTP/2 connection.
//!
//! `cargo run -p tower-keep-alive-integrations --example grpc`. Server and client are in one process, and their messages are
//! derived, so no `protoc` is needed. A client that tonic has generated from a `.proto` file takes the agent in the same way:
//! `GreeterClient::with_origin(client, origin)`.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, iter, unfold};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use prost::Message;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::util::MapErr;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAlive, KeepAliveLayer, Protocol};

/// The request of each call.
#[derive(Clone, PartialEq, Message)]
struct Hello {
    /// Who greets.
    #[prost(string, tag = "1")]
    name: String,
}

/// An answer.
#[derive(Clone, PartialEq, Message)]
struct Greeting {
    /// What is said.
    #[prost(string, tag = "1")]
    text: String,
}

/// The agent as tonic calls it.
type Client = MapErr<KeepAlive<TcpConnector, Body>, fn(tower_keep_alive::Error) -> Status>;

/// What tonic would generate of a service with four methods.
#[derive(Clone)]
struct Greeter {
    grpc: Grpc<Client>,
}

impl Greeter {
    fn new(client: Client, origin: Uri) -> Self {
        let grpc = Grpc::with_origin(client, origin);
        Self { grpc }
    }

    async fn greet(&mut self, name: &str) -> Result<Response<Greeting>, Status> {
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/greeter.Greeter/Greet");
        self.grpc
            .unary(
                tonic::Request::new(hello(name)),
                path,
                ProstCodec::default(),
            )
            .await
    }

    async fn greet_often(&mut self, name: &str) -> Result<Streaming<Greeting>, Status> {
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/greeter.Greeter/GreetOften");
        let request = tonic::Request::new(hello(name));
        let codec = ProstCodec::default();
        let response = self.grpc.server_streaming(request, path, codec).await?;
        Ok(response.into_inner())
    }

    async fn greet_all(
        &mut self,
        names: impl Stream<Item = Hello> + Send + 'static,
    ) -> Result<Response<Greeting>, Status> {
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/greeter.Greeter/GreetAll");
        self.grpc
            .client_streaming(tonic::Request::new(names), path, ProstCodec::default())
            .await
    }

    async fn talk(
        &mut self,
        names: impl Stream<Item = Hello> + Send + 'static,
    ) -> Result<Streaming<Greeting>, Status> {
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/greeter.Greeter/Talk");
        let request = tonic::Request::new(names);
        let codec = ProstCodec::default();
        let response = self.grpc.streaming(request, path, codec).await?;
        Ok(response.into_inner())
    }
}

fn hello(name: &str) -> Hello {
    Hello { name: name.into() }
}

fn greeting(text: impl Into<String>) -> Greeting {
    Greeting { text: text.into() }
}

/// tonic does not know the agent's errors, and would call each of them `Unknown`. What did not reach the server may be sent
/// again, which is what `Unavailable` says.
fn status(error: tower_keep_alive::Error) -> Status {
    let code = if error.is_timeout() && !error.is_connect() {
        Code::DeadlineExceeded
    } else if error.is_unsent() || error.is_connect() || error.is_reset() {
        Code::Unavailable
    } else {
        Code::Unknown
    };
    let mut status = Status::new(code, error.to_string());
    status.set_source(std::sync::Arc::new(error));
    status
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

/// The whole example.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?).parse::<Uri>()?;
    let server = tonic::transport::Server::builder();
    let incoming = TcpIncoming::from(listener);
    tokio::spawn(server.serve_with_incoming(service_fn(serve), incoming));

    // Without TLS, HTTP/2 is what both sides know beforehand. With TLS it is negotiated: `Protocol::Auto` will do.
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    let agent = layer.handle();
    let client: Client = ServiceBuilder::new()
        .layer(layer)
        .service(TcpConnector::new())
        .map_err(status);
    let mut greeter = Greeter::new(client, origin);

    let answer = greeter.greet("Ada").await?;
    // Of the head and of the trailers, which come after the message.
    let metadata = answer.metadata().clone();
    println!(
        "unary: {}, {:?}",
        answer.get_ref().text,
        metadata.get("grpc-status")
    );
    assert_eq!(answer.into_inner().text, "hello Ada");
    assert_eq!(metadata.get("grpc-status").ok_or("no status")?, "0");

    let error = greeter.greet("nobody").await.err().ok_or("no error")?;
    println!("unary, refused: {:?}, {}", error.code(), error.message());
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(
        error.metadata().get("looked-for").ok_or("no field")?,
        "nobody"
    );

    let mut answers = greeter.greet_often("Ada").await?;
    for number in 1..=3 {
        let answer = answers.message().await?.ok_or("too few")?;
        println!("stream of answers: {}", answer.text);
        assert_eq!(answer.text, format!("hello Ada, {number}"));
    }
    // The status of a stream is in its trailers, and may be an error after any number of messages.
    let error = answers.message().await.err().ok_or("no error")?;
    println!(
        "stream of answers, broken off: {:?}, {}",
        error.code(),
        error.message()
    );
    assert_eq!(error.code(), Code::ResourceExhausted);

    let names = iter(["Ada", "Alan", "Grace"]).map(hello);
    let answer = greeter.greet_all(names).await?;
    println!("stream of messages: {}", answer.get_ref().text);
    assert_eq!(answer.into_inner().text, "hello Ada, Alan, Grace");

    // Each message is sent after the answer to the one before.
    let (say, said) = tokio::sync::mpsc::channel(1);
    let names = unfold(said, async |mut said| {
        said.recv().await.map(|name| (name, said))
    });
    say.send(hello("Ada")).await?;
    let mut answers = greeter.talk(names).await?;
    for next in [Some("Alan"), Some("Grace"), None] {
        let answer = answers.message().await?.ok_or("too few")?;
        println!("both ways: {}", answer.text);
        if let Some(name) = next {
            say.send(hello(name)).await?;
        }
    }
    drop(say);
    assert_eq!(answers.message().await?, None);
    let trailers = answers.trailers().await?.ok_or("no trailers")?;
    assert_eq!(trailers.get("grpc-status").ok_or("no status")?, "0");

    let told = agent.status();
    println!("{told}");
    assert_eq!((told.created, told.completed), (1, 5));
    agent.destroy();

    // A call that does not reach its server says so by its code.
    let error = greeter.greet("Ada").await.err().ok_or("no error")?;
    println!("after the end: {:?}, {}", error.code(), error.message());
    assert_eq!(error.code(), Code::Unavailable);
    Ok(())
}

/// The server: what tonic would generate, and the methods.
async fn serve(request: Request<Body>) -> Result<http::Response<Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
    Ok(match request.uri().path() {
        "/greeter.Greeter/Greet" => grpc.unary(service_fn(greet), request).await,
        "/greeter.Greeter/GreetOften" => {
            grpc.server_streaming(service_fn(greet_often), request)
                .await
        }
        "/greeter.Greeter/GreetAll" => grpc.client_streaming(service_fn(greet_all), request).await,
        "/greeter.Greeter/Talk" => grpc.streaming(service_fn(talk), request).await,
        path => Status::unimplemented(path).into_http(),
    })
}

async fn greet(request: tonic::Request<Hello>) -> Result<Response<Greeting>, Status> {
    let name = request.into_inner().name;
    if name == "nobody" {
        let mut status = Status::not_found("there is nobody");
        let looked_for = name.parse().map_err(|_| Status::internal("no value"))?;
        status.metadata_mut().insert("looked-for", looked_for);
        return Err(status);
    }
    Ok(Response::new(greeting(format!("hello {name}"))))
}

type Answers = Pin<Box<dyn Stream<Item = Result<Greeting, Status>> + Send>>;

async fn greet_often(request: tonic::Request<Hello>) -> Result<Response<Answers>, Status> {
    let name = request.into_inner().name;
    let answers = (1..=4).map(move |number| match number {
        4 => Err(Status::resource_exhausted("three are enough")),
        _ => Ok(greeting(format!("hello {name}, {number}"))),
    });
    Ok(Response::new(Box::pin(iter(answers))))
}

async fn greet_all(
    request: tonic::Request<Streaming<Hello>>,
) -> Result<Response<Greeting>, Status> {
    let mut messages = request.into_inner();
    let mut names = Vec::new();
    while let Some(hello) = messages.message().await? {
        names.push(hello.name);
    }
    Ok(Response::new(greeting(format!(
        "hello {}",
        names.join(", ")
    ))))
}

async fn talk(request: tonic::Request<Streaming<Hello>>) -> Result<Response<Answers>, Status> {
    let answers = request
        .into_inner()
        .map(|hello| Ok(greeting(format!("hello {}", hello?.name))));
    Ok(Response::new(Box::pin(answers)))
}
