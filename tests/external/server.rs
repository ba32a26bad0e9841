//! Scorers that are servers, on this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use das_cuda::cpu::Cpu;
use das_cuda::reward::Reward;
use das_cuda::tape::Tape;
use das_cuda::{ErrorKind, pixels::Picture};
use serde_json::{Value, json};

use crate::{PROMPTS, Smooth, apart, graded, images, open_reward, picture, program, scorer};

/// What a server answers: a status and a body, or where to go instead.
type Answers = fn(Option<Value>) -> (u16, String);

/// Serves until the test ends; the address. A GET has no body.
fn serve(answers: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| exchange(stream, answers)));
    format!("http://{address}/compute")
}

/// One request and its answer; a status of 0 is none.
fn exchange(stream: TcpStream, answers: Answers) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        match line.trim().to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().expect("a length"),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let body = first.starts_with("POST").then(|| serde_json::from_slice(&body).expect("JSON"));
    let (status, text) = answers(body);
    if status == 0 {
        thread::park();
    }
    let place = if (300..400).contains(&status) { format!("location: {text}\r\n") } else { String::new() };
    let length = text.len();
    let head = format!("HTTP/1.1 {status} X\r\n{place}content-length: {length}\r\nconnection: close\r\n\r\n");
    // The other side may have had enough.
    let _ = (&stream).write_all((head + &text).as_bytes());
}

fn a_server_of_this_protocol_gives_gradients() {
    let url = serve(|request| match request {
        None => (200, json!({"das_cuda_reward": 1, "gradient": true, "images": "f32"}).to_string()),
        Some(request) => (200, scorer::answer(&request, true).to_string()),
    });
    let cpu = Cpu::new();
    // As it is typed: the reward's name is the beginning of the address.
    let reward = open_reward(&url, &cpu).expect("it opens");
    let inside = Smooth::new(&cpu, 60).expect("it opens");
    let (found, expected) = (graded(&reward, &cpu).expect("found"), graded(&inside, &cpu).expect("expected"));
    assert!(apart(&found.0, &expected.0) < 1e-6 && apart(&found.1, &expected.1) < 1e-6);
}

/// `{"prompts", "images"}` in, `{"rewards"}` out, and no GET: the servers of Flow-Factory.
fn a_server_of_scores_alone_is_understood() {
    let url = serve(|request| match request {
        None => (405, json!({"detail": "Method Not Allowed"}).to_string()),
        Some(request) => (200, json!({"rewards": scorer::answer(&request, false)["scores"]}).to_string()),
    });
    let cpu = Cpu::new();
    let reward = open_reward(&format!("http=0.5:{url}"), &cpu).expect("it opens");
    assert!(!reward.differentiable());
    let (values, tensor) = images(&cpu);
    let scores = reward.part_scores(&cpu, &tensor, &[0, 1]).expect("scores");
    let expected: Vec<f32> = values
        .chunks(60)
        .zip(PROMPTS)
        .map(|(image, prompt)| scorer::redness(&Picture::from_floats(4, 5, image).rgb, prompt) as f32)
        .collect();
    assert_eq!(scores, [("http".to_string(), expected)]);
}

fn what_a_server_does_wrong_is_told() {
    let cpu = Cpu::new();
    let cases: [(Answers, &str); 6] = [
        (|r| (if r.is_some() { 500 } else { 404 }, "{\"detail\": \"CUDA error\"}".into()), "status 500"),
        (|_| (200, "<html>".into()), "<html>"),
        (|_| (200, "{\"scores\": [1]}".into()), "1 score for 2 images"),
        (|_| (200, "{\"error\": \"busy\"}".into()), "says: busy"),
        (|_| (302, "/login".into()), "redirects to \"/login\" (status 302)"),
        (|_| (200, "x".repeat(3 << 20)), "an answer of more than the"),
    ];
    for (answers, says) in cases {
        let url = serve(answers);
        let reward = open_reward(&url, &cpu).expect("a server of scores");
        let error = reward.score(&Tape::off(&cpu), &images(&cpu).1.into(), &[0, 0]).expect_err(says);
        assert_eq!(error.kind(), ErrorKind::Model);
        let error = error.to_string();
        for says in [says, &url, "2 images of prompt \"a star\"", "fix:"] {
            assert!(error.contains(says), "{says}: {error}");
        }
    }
    let wrong = serve(|_| (200, "{\"das_cuda_reward\": 1, \"gradients\": true}".into()));
    let error = open_reward(&wrong, &cpu).err().expect("a wrong hello").to_string();
    assert!(error.contains("unknown field 'gradients'"), "{error}");
    // What fails to say what it is does not become a server of scores alone.
    let failing = serve(|_| (503, "{\"detail\": \"loading\"}".into()));
    let error = open_reward(&failing, &cpu).err().expect("no hello").to_string();
    assert!(error.contains("status 503") && error.contains("loading"), "{error}");
    let moved = serve(|_| (307, "http://127.0.0.1/there/".into()));
    let error = open_reward(&moved, &cpu).err().expect("a server elsewhere").to_string();
    assert!(
        error.contains("redirects to \"http://127.0.0.1/there/\"") && error.contains("give that"),
        "{error}"
    );
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let error = open_reward(&format!("http://{nobody}/"), &cpu).err().expect("nobody is there").to_string();
    assert!(error.contains("check the address"), "{error}");
}

fn a_server_that_never_answers_is_given_up() {
    let url = serve(|request| if request.is_some() { (0, String::new()) } else { (404, String::new()) });
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let output = program(&["score", &picture(folder.path()), "-p", "a star", "--reward", &url]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("within 2 s") && error.contains("DAS_REWARD_TIMEOUT"), "{error}");
}

crate::tests![
    a_server_of_this_protocol_gives_gradients,
    a_server_of_scores_alone_is_understood,
    what_a_server_does_wrong_is_told,
    a_server_that_never_answers_is_given_up,
];
