//! The shell: owns the sockets.
pub async fn run(){}
