#![no_main]
lorica_fuzz::target!("workload_api");
