//! The client against the fakes. Time stands still but where the code waits for it.

mod append;
mod attachment;
mod leases;
mod listings;
mod locks;
mod model;
mod opens;
mod path;
mod read;
mod session;
mod volumes;
mod write;
mod writes;
