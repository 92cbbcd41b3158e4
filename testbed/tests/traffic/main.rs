//! Who is left out, and how much is let through: real proxies from files, before apps that do as a test says.

mod app;
mod ejection;
mod health;
mod hedging;
mod limits;
mod rig;
