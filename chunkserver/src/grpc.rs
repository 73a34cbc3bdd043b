//! Serves the chunk service over gRPC, for programs in any language that speak `chunk.proto`. dfs itself uses frames.
//!
//! The payload is copied through the message here. Appends to one chunk keep their order only if the client waits for each
//! answer before it sends the next one: HTTP/2 streams have no order among each other.

use std::sync::Arc;

use dfs_proto::chunk::ChunkService;
use dfs_proto::convert::{reply_to_wire, request_from_wire};
use dfs_proto::rpc::grpc::MESSAGE_LEN_MAX;
use dfs_proto::wire;
use dfs_proto::wire::chunk_server::{Chunk, ChunkServer};
use tonic::{Request, Response, Status};

struct Wiring(Arc<dyn ChunkService>);

/// The service in the form that tonic serves.
pub(crate) fn chunk_service(service: Arc<dyn ChunkService>) -> ChunkServer<impl Chunk> {
    ChunkServer::new(Wiring(service)).max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[tonic::async_trait]
impl Chunk for Wiring {
    async fn call(&self, call: Request<wire::ChunkCall>) -> Result<Response<wire::ChunkAnswer>, Status> {
        let call = call.into_inner();
        let request = call.request.ok_or_else(|| Status::invalid_argument("request is missing"))?;
        let result = match request_from_wire(request, call.payload) {
            Ok(request) => self.0.call(request).await,
            Err(error) => Err(error),
        };
        let (reply, payload) = reply_to_wire(result);
        Ok(Response::new(wire::ChunkAnswer { reply: Some(reply), payload }))
    }
}
