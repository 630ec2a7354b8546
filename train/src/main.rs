mod archive;

fn main() {}
