fn main() {
    println!("das-cuda {}", env!("CARGO_PKG_VERSION"));
}
