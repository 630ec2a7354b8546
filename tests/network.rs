//! `--source http://…`, against a small server on this machine.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::*;
use serde_json::Value;

/// Answers every connection, counted from 0, with `answer`; gives the address without `http://`.
fn serve(
    answer: impl Fn(usize, &[String], &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (answer, mut stream) = (answer.clone(), stream.unwrap());
            thread::spawn(move || {
                let request = BufReader::new(stream.try_clone().unwrap()).lines();
                let request: Vec<String> =
                    request.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                // The client may have gone.
                let _ = answer(number, &request, &mut stream);
            });
        }
    });
    address
}

const MULTIPART: &str = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n";

fn part(stream: &mut TcpStream, body: &[u8], with_length: bool) -> std::io::Result<()> {
    let length = if with_length { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    let header = format!("--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n");
    stream.write_all(&[header.as_bytes(), body, b"\r\n"].concat())?;
    thread::sleep(Duration::from_millis(30));
    Ok(())
}

fn picture(width: u32) -> Vec<u8> {
    grey_jpeg(width, 48, 100)
}

fn mien_run(source: &str, args: &[&str]) -> Output {
    let mut command = mien(["run", "--headless", "--json", "--source", source].iter().chain(args));
    // A proxy of the machine's must not come between.
    command
        .env("http_proxy", "http://127.0.0.1:9/")
        .env("RUST_LOG", "mien=trace,ureq=trace,ureq_proto=trace")
        .output()
        .unwrap()
}

fn pictures(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["faces"].is_array()).collect()
}

#[test]
fn parts_with_and_without_a_length() {
    for with_length in [true, false] {
        let address = serve(move |_, _, stream| {
            stream.write_all(MULTIPART.as_bytes())?;
            loop {
                part(stream, &picture(64), with_length)?;
            }
        });
        let output = mien_run(&format!("http://{address}/stream.mjpg"), &["--frames", "5"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let lines = lines(&output);
        assert_eq!(pictures(&lines).len(), 5);
        check_picture(&lines[0], true);
        assert_eq!(lines[0]["source"], format!("http://{address}/stream.mjpg"));
        assert_eq!(lines.last().unwrap()["summary"]["unreadable"], 0);
    }
}

#[test]
fn a_chunked_stream_without_part_headers_and_with_an_odd_boundary() {
    let address = serve(|_, _, stream| {
        let header = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                      Content-Type: multipart/x-mixed-replace; boundary=\"--odd\"\r\n\r\n";
        stream.write_all(header.as_bytes())?;
        loop {
            let body = [b"--odd\r\n\r\n", &picture(64)[..], b"\r\n"].concat();
            // Chunks end where they like.
            for piece in body.chunks(100) {
                stream.write_all(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())?;
            }
            thread::sleep(Duration::from_millis(30));
        }
    });
    let output = mien_run(&format!("http://{address}/"), &["--frames", "4"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(pictures(&lines(&output)).len(), 4);
}

#[test]
fn a_dropped_connection_is_opened_again() {
    let address = serve(|number, _, stream| {
        stream.write_all(MULTIPART.as_bytes())?;
        match number {
            0 => {
                for _ in 0..5 {
                    part(stream, &picture(64), true)?;
                }
                // In the middle of a picture.
                stream.write_all(b"--frame\r\nContent-Length: 1000\r\n\r\n\xFF\xD8\xFF")
            }
            _ => loop {
                part(stream, &picture(80), true)?;
            },
        }
    });
    // Five pictures at the most come before the loss.
    let output = mien_run(&format!("http://{address}/"), &["--frames", "9"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    let place = |key: &str| lines.iter().position(|line| line.get(key).is_some()).unwrap();
    assert!(place("lost") < place("back_after"), "{lines:?}");
    assert_eq!(lines[place("back_after") + 1]["width"], 80, "{lines:?}");
    let said = stderr(&output);
    assert_eq!(said.matches("is lost:").count(), 1, "{said}");
}

#[test]
fn a_server_that_comes_later_is_waited_for_once_it_was_there() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = connections.clone();
    let address = serve(move |number, _, stream| {
        seen.store(number + 1, Ordering::SeqCst);
        match number {
            0 | 3.. => stream.write_all(MULTIPART.as_bytes())?,
            _ => return stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        }
        for _ in 0..3 {
            part(stream, &picture(64), true)?;
        }
        match number {
            0 => Ok(()),
            _ => loop {
                part(stream, &picture(64), true)?;
            },
        }
    });
    let output = mien_run(&format!("http://{address}/"), &["--frames", "8"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(connections.load(Ordering::SeqCst) >= 4);
    assert_eq!(lines(&output).last().unwrap()["summary"]["lost"], 1);
}

#[test]
fn garbage_parts_and_other_kinds_are_passed_over() {
    let address = serve(|_, _, stream| {
        stream.write_all(MULTIPART.as_bytes())?;
        stream.write_all(b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello\r\n")?;
        loop {
            part(stream, b"this is no picture", true)?;
            part(stream, &picture(64)[..300], true)?;
            part(stream, &picture(64)[..300], false)?;
            part(stream, &picture(96), true)?;
        }
    });
    let output = mien_run(&format!("http://{address}/"), &["--frames", "3"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines = lines(&output);
    assert!(pictures(&lines).iter().all(|line| line["width"] == 96), "{lines:?}");
    let summary = &lines.last().unwrap()["summary"];
    assert!(summary["unreadable"].as_u64().unwrap() >= 3 && summary["lost"] == 0, "{summary}");
}

#[test]
fn single_pictures_are_asked_for_again_and_again() {
    let address = serve(|_, _, stream| {
        let picture = picture(64);
        let header = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            picture.len()
        );
        stream.write_all(&[header.as_bytes(), &picture].concat())
    });
    let output = mien_run(&format!("http://{address}/shot.jpg"), &["--frames", "4", "--fps", "20"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(pictures(&lines(&output)).len(), 4);
}

#[test]
fn the_password_is_sent_and_never_shown() {
    let address = serve(|_, request, stream| {
        // me:p@ss
        match request.iter().any(|line| line.eq_ignore_ascii_case("authorization: Basic bWU6cEBzcw==")) {
            true => stream.write_all(MULTIPART.as_bytes())?,
            false => return stream.write_all(
                b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"camera\"\r\nContent-Length: 0\r\n\r\n",
            ),
        }
        loop {
            part(stream, &picture(64), true)?;
        }
    });
    let told = |output: &Output| format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output));
    let output = mien_run(&format!("http://me:p%40ss@{address}/v?key=hidden"), &["--frames", "2"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for secret in ["p%40ss", "p@ss", "bWU6cEBzcw"] {
        assert!(!told(&output).contains(secret), "{secret} in {}", told(&output));
    }
    assert_eq!(lines(&output)[0]["source"], format!("http://{address}/v"));

    let output = mien_run(&format!("http://me:wrong@{address}/v"), &[]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("it refuses the user or the password (401)"), "{}", stderr(&output));
    assert!(!told(&output).contains("me:wrong"), "{}", told(&output));
    let output = mien_run(&format!("http://{address}/v"), &[]);
    assert!(stderr(&output).contains("http://USER:PASSWORD@HOST/PATH"), "{}", stderr(&output));
}

#[test]
fn what_is_no_stream_is_refused_with_advice() {
    let answer = |text: &'static str| {
        let address = serve(move |_, _, stream| stream.write_all(text.as_bytes()));
        let output = mien_run(&format!("http://{address}/"), &[]);
        assert_eq!(code(&output), 2, "{text}: {}", stderr(&output));
        stderr(&output)
    };
    for (text, reason) in [
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "it answers 404 Not Found; look in the camera's manual",
        ),
        (
            "HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm=\"x\"\r\nContent-Length: 0\r\n\r\n",
            "it wants Digest authentication",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 2\r\n\r\nhi",
            "it sends text/html, not pictures",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "it does not speak HTTP"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\nContent-Length: 0\r\n\r\n",
            "it has ended the stream",
        ),
    ] {
        let said = answer(text);
        assert!(said.contains(reason), "{text}: {said}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = mien_run(&format!("http://{closed}/"), &[]);
    assert!(stderr(&output).contains("nothing listens there"), "{}", stderr(&output));
    let output = mien_run("https://me:secret@127.0.0.1/", &[]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("(https) are not read"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
    let output = mien_run("http://", &[]);
    assert!(stderr(&output).contains("not a valid address"), "{}", stderr(&output));
}
