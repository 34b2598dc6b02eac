#pragma once

#include <algorithm>
#include <arpa/inet.h>
#include <csignal>
#include <cstdint>
#include <memory>
#include <netinet/in.h>
#include <sys/socket.h>

#include "../support/sanitizers.hpp"
#include "program.hpp"

/// A TCP connection to the server, for what curl does not send. Reads with a time limit.
class Socket {
 public:
  explicit Socket(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  Socket(Socket&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_), text_(std::move(other.text_)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }

  bool connected() const { return connected_; }

  /// False if the server has closed the connection.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  /// Reads until it has read that. False if the connection ends first, or after 60 s.
  bool read_to(const std::string& text) {
    while (text_.find(text) == std::string::npos)
      if (!read_some()) return false;
    return true;
  }
  /// All that comes until the server closes the connection.
  const std::string& read_all() {
    while (read_some()) {
    }
    EXPECT_TRUE(ended_) << "the server did not close the connection; it wrote:\n" << text_;
    return text_;
  }
  const std::string& text() const { return text_; }

 private:
  bool read_some() {
    pollfd readable{fd_, POLLIN, 0};
    if (::poll(&readable, 1, 60'000) != 1) return false;
    char buffer[65536];
    const ssize_t count = ::recv(fd_, buffer, sizeof buffer, 0);
    if (count <= 0) {
      ended_ = true;
      return false;
    }
    text_.append(buffer, static_cast<std::size_t>(count));
    return true;
  }

  int fd_;
  bool connected_ = false, ended_ = false;
  std::string text_;
};

inline std::string post(const std::string& path, const std::string& body, const std::string& fields = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         fields + "\r\n" + body;
}

inline constexpr char sha256_of_abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class Server : public testing::Test {
 protected:
  Server() {
    std::string name = testing::TempDir() + "drover-server-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no folder for the test");
    folder_ = name;
  }
  ~Server() override { std::filesystem::remove_all(folder_); }

  void start(std::vector<std::string> options = {}) {
    ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // in workers LeakSanitizer takes longer than they have
    std::vector<std::string> argv{DROVER_EXAMPLE, "--port", "0"};
    const auto add_default = [&](const char* option, const char* value) {
      if (std::find(options.begin(), options.end(), option) == options.end()) argv.insert(argv.end(), {option, value});
    };
    add_default("--workers", "2");
    if (support::sanitized) add_default("--memory", "0");  // sanitizers reserve terabytes
    argv.insert(argv.end(), options.begin(), options.end());
    program_ = std::make_unique<Program>(argv);
    program_->wait_for("listening on http://127.0.0.1:");
    port_ = std::stoi(program_->out_after("listening on http://127.0.0.1:"));
  }

  std::string url(const std::string& path) const { return "http://127.0.0.1:" + std::to_string(port_) + path; }

  struct Answer {
    std::string status, type, body;
  };
  Answer curl(const std::string& path, std::vector<std::string> options = {}) const {
    std::vector<std::string> argv{
        "curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}\n%{content_type}"};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.push_back(url(path));
    const Program::Result result = Program::run(argv);
    EXPECT_EQ(result.code, 0) << path << ": " << result.err;
    Answer answer;
    const std::size_t type = result.out.rfind('\n');
    const std::size_t status = result.out.rfind('\n', type - 1);
    if (type == std::string::npos || status == std::string::npos) return answer;
    answer.type = result.out.substr(type + 1);
    answer.status = result.out.substr(status + 1, type - status - 1);
    answer.body = result.out.substr(0, status);
    return answer;
  }
  Answer hash_abc() const { return curl("/hash", {"--data-binary", "abc"}); }

  /// The worker that has each slot.
  std::vector<pid_t> workers() const {
    std::vector<pid_t> found;
    for (const pid_t pid : program_->processes())
      if (pid != program_->pid()) found.push_back(pid);
    return found;
  }
  void signal_workers(int number) const {
    for (const pid_t pid : workers()) ::kill(pid, number);
  }

  /// The value of a metric.
  double metric(const std::string& name) const {
    const std::string text = '\n' + curl("/metrics").body;
    const std::size_t line = text.find('\n' + name + '{');
    if (line == std::string::npos) return -1;
    return std::stod(text.substr(text.find(' ', line) + 1));
  }
  bool becomes(const std::string& name, double value) const {
    return Program::eventually(std::chrono::seconds(30), [&] { return metric(name) == value; });
  }

  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return (folder_ / name).string();
  }

  /// SIGTERM, then its end and that of all its workers.
  void end() {
    ::kill(program_->pid(), SIGTERM);
    const Program::Result result = program_->wait();
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(program_->processes().empty());
  }

  std::filesystem::path folder_;
  std::unique_ptr<Program> program_;
  int port_ = 0;
};
