//! tonic's client over the agent, by the example that shows it.

#[allow(dead_code)]
#[path = "../examples/grpc.rs"]
mod grpc;

#[tokio::test]
async fn calls_of_every_kind_share_one_connection_and_fail_as_the_server_says() {
    grpc::run().await.unwrap();
}
