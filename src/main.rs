//! The command line of ketch.

fn main() {}
