#![no_main]
lorica_fuzz::target!("grpc_web");
