//! What is issued, read back by other implementations: x509-parser, webpki, OpenSSL, Go's and Python's when installed.

mod issue;
mod others;
mod renewal;
mod rotation;
mod rules;
mod support;
