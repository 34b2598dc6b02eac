#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <gtest/gtest.h>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/life_lock.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>

#include "support/sanitizers.hpp"

extern char** environ;

/// The parent of one worker, played with nothing but system calls and frames.
namespace raw {

using namespace std::chrono_literals;
using drover::Clock;
using drover::UniqueFd;
using drover::detail::Channel;
using drover::detail::FrameHeader;
using drover::detail::FrameType;
using drover::detail::ResultStatus;

inline constexpr auto patience = 20s;  // until a test gives up

inline constexpr auto slack = support::sanitized ? 4500ms : 1500ms;  // of upper bounds

class Stopwatch {
 public:
  Clock::duration elapsed() const { return Clock::now() - began_; }

 private:
  Clock::time_point began_ = Clock::now();
};

inline int open_descriptors() {
  int count = 0;
  DIR* const folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

inline std::int64_t nanoseconds(Clock::time_point at) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
}

inline drover::detail::InheritedFd inherited(int as, int fd) {
  const auto identity = drover::detail::identity_of(fd);
  if (!identity) throw std::logic_error("no such descriptor");
  return {as, identity->device, identity->inode};
}

inline UniqueFd pidfd_of(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

/// Waits until a descriptor is readable; false after `patience`.
inline bool readable(int fd, std::chrono::milliseconds bound = patience) {
  const Clock::time_point deadline = Clock::now() + bound;
  for (;;) {
    pollfd watched{fd, POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    const int result = ::poll(&watched, 1, static_cast<int>(std::max(left, 0ms).count()));
    if (result > 0) return true;
    if (result == 0) return false;
  }
}

struct Answer {
  FrameHeader header;
  std::vector<std::byte> body;

  ResultStatus status() const { return static_cast<ResultStatus>(header.status); }

  template <class T>
  T as() const {
    drover::Decoder decoder(body);
    T value = decoder.get<T>();
    decoder.finish();
    return value;
  }
  /// The texts of an answer that is no result.
  std::vector<std::string> texts() const {
    drover::Decoder decoder(body);
    std::vector<std::string> all;
    while (!decoder.at_end()) all.push_back(decoder.get<std::string>());
    return all;
  }
};

struct Options {
  std::string program = DROVER_HELPER_RAW_WORKER;
  std::vector<std::string> args{};
  std::chrono::nanoseconds shutdown_grace = 1s;
  std::uint64_t max_message_size = 64u << 20;
  std::chrono::nanoseconds stall{};  // 0: off
  bool with_pidfd = true;
  bool with_lock = false;
  bool own_group = true;
  drover::WorkerInfo worker{.name = "raw worker"};
  int forge = 0;  // 1: another inode; 2: no such text; 3: not there
};

class Worker {
 public:
  explicit Worker(Options options = {}) : Worker(spawn(options)) {}
  Worker(Worker&&) = delete;
  ~Worker() {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }

  pid_t pid;
  Channel control, data;
  UniqueFd out;  // the worker's standard output
  drover::detail::Hello hello;
  std::uint64_t last_call = 0;
  std::optional<std::uint64_t> last_begun;  // as DRAINING has said last
  std::uint16_t core = 0;                   // that calls say they come from
  std::uint8_t next_status = 0;             // of the next CALL

  /// Reads HELLO, checks who has sent it.
  void expect_hello() {
    ASSERT_TRUE(readable(control.fd()));
    std::array<std::byte, 16384> bytes;
    const auto got = drover::detail::receive_with_credentials(control.fd(), bytes);
    EXPECT_EQ(got.sender, pid);
    FrameHeader header;
    ASSERT_GT(got.bytes, sizeof header);
    std::memcpy(&header, bytes.data(), sizeof header);
    EXPECT_EQ(header.type, FrameType::hello);
    EXPECT_EQ(header.id, drover::detail::hello_id());
    ASSERT_EQ(got.bytes, sizeof header + header.size);
    drover::Decoder decoder({bytes.data() + sizeof header, header.size});
    hello = decoder.get<drover::detail::Hello>();
    decoder.finish();
  }

  /// Waits for what the worker tells on its standard output.
  ::testing::AssertionResult told(char what) {
    char byte = 0;
    if (!readable(out.get())) return ::testing::AssertionFailure() << "the worker told nothing";
    if (::read(out.get(), &byte, 1) != 1) return ::testing::AssertionFailure() << "the worker has ended";
    if (byte != what) return ::testing::AssertionFailure() << "the worker told " << byte;
    return ::testing::AssertionSuccess();
  }
  bool told_nothing() { return !readable(out.get(), 0ms); }

  template <class... Args>
  std::uint64_t queue_call(std::string_view name, const Args&... args) {
    drover::detail::FrameBody body;
    drover::Encoder encoder(body);
    encoder.put(name);
    (encoder.put(args), ...);
    FrameHeader header;
    header.type = FrameType::call;
    header.status = std::exchange(next_status, std::uint8_t{0});
    header.slot = static_cast<std::uint32_t>(1000 + ++last_call);
    header.id = last_call;
    header.core = core;
    data.queue(header, body);
    return last_call;
  }
  /// Sent ahead: see ahead_flag.
  template <class... Args>
  std::uint64_t call_ahead(std::string_view name, const Args&... args) {
    next_status = drover::detail::ahead_flag;
    return call(name, args...);
  }
  template <class... Args>
  std::uint64_t call(std::string_view name, const Args&... args) {
    const std::uint64_t id = queue_call(name, args...);
    flush(data);
    return id;
  }

  void send(FrameType type, std::uint64_t id) {
    FrameHeader header;
    header.type = type;
    header.id = id;
    control.queue(header);
    flush(control);
  }
  void cancel(std::uint64_t id) { send(FrameType::cancel, id); }

  void stop(std::optional<Clock::duration> drain, std::optional<Clock::duration> budget) {
    const Clock::time_point now = Clock::now();
    drover::detail::StopBody body;
    if (drain) body.drain_until = nanoseconds(now + *drain);
    if (budget) body.end_by = nanoseconds(now + *budget);
    stop(body);
  }
  void stop(const drover::detail::StopBody& body) {
    FrameHeader header;
    header.type = FrameType::stop;
    header.id = last_call;
    control.queue(header, drover::detail::encode_body(body));
    flush(control);
  }

  std::optional<Answer> next(Channel& channel, std::chrono::milliseconds bound = patience) {
    for (;;) {
      if (const auto frame = channel.next())
        return Answer{frame->header, std::vector<std::byte>(frame->body.begin(), frame->body.end())};
      if (!readable(channel.fd(), bound)) return std::nullopt;
      if (channel.receive() == Channel::Received::closed) return std::nullopt;
    }
  }

  /// The next RESULT; a failed test and an empty answer if there is none.
  Answer result() {
    auto answer = next(data);
    EXPECT_TRUE(answer) << "no RESULT";
    if (!answer) return {};
    EXPECT_EQ(answer->header.type, FrameType::result);
    EXPECT_EQ(answer->header.slot, 1000 + answer->header.id);
    return std::move(*answer);
  }

  /// The next frame on the control socket. DRAINING, which may come between replies, is only noted.
  std::optional<Answer> next_reply() {
    for (;;) {
      auto answer = next(control);
      if (!answer || answer->header.type != FrameType::draining) return answer;
      // The control thread's, which knows of none, may come after the main thread's.
      last_begun = std::min(answer->header.id, last_begun.value_or(answer->header.id));
    }
  }

  drover::detail::StopReply stop_reply() {
    const auto answer = next_reply();
    EXPECT_TRUE(answer) << "no STOP_REPLY";
    if (!answer) return {};
    EXPECT_EQ(answer->header.type, FrameType::stop_reply);
    return drover::detail::decode_body<drover::detail::StopReply>(answer->body).value();
  }

  drover::detail::StatusReply status(std::uint64_t id = 77) {
    send(FrameType::status, id);
    const auto answer = next_reply();
    EXPECT_TRUE(answer) << "no STATUS_REPLY";
    if (!answer) return {};
    EXPECT_EQ(answer->header.type, FrameType::status_reply);
    EXPECT_EQ(answer->header.id, id);
    return drover::detail::decode_body<drover::detail::StatusReply>(answer->body).value();
  }

  /// Waits until a signal that was sent to it is not pending any more.
  void wait_until_delivered(int signo) const {
    for (const Clock::time_point deadline = Clock::now() + patience; Clock::now() < deadline;) {
      std::ifstream file("/proc/" + std::to_string(pid) + "/status");
      for (std::string line; std::getline(file, line);)
        if (line.starts_with("ShdPnd:") && (std::stoull(line.substr(8), nullptr, 16) >> (signo - 1) & 1) == 0) return;
      std::this_thread::yield();
    }
    ADD_FAILURE() << "a signal stays pending";
  }

  /// Waits for its end: the exit code, or minus the signal.
  int exit_status() {
    const UniqueFd pidfd = pidfd_of(pid);
    EXPECT_TRUE(readable(pidfd.get())) << "the worker does not end";
    int status = 0;
    ::kill(pid, SIGKILL);
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  static void flush(Channel& channel) {
    for (;;) {
      channel.flush();
      if (!channel.wants_write()) return;
      pollfd writable{channel.fd(), POLLOUT, 0};
      if (::poll(&writable, 1, 20000) <= 0) throw std::runtime_error("the worker does not read");
    }
  }

 private:
  struct Parts {
    pid_t pid;
    UniqueFd control, data, out;
  };

  explicit Worker(Parts parts)
      : pid(parts.pid),
        control(std::move(parts.control), 1u << 20),
        data(std::move(parts.data), 128u << 20),
        out(std::move(parts.out)) {}

  static Parts spawn(const Options& options);
};

inline Worker::Parts Worker::spawn(const Options& options) {
  using namespace drover::detail;
  auto [control, control_there] = socket_pair();
  auto [data, data_there] = socket_pair();
  auto [out, out_there] = pipe_pair();
  enable_credentials(control.get());
  const UniqueFd own = options.with_pidfd ? pidfd_of(::getpid()) : UniqueFd();
  const int lock = options.with_lock ? life_lock() : -1;

  // High numbers first, so that none is in the way of its target.
  std::vector<UniqueFd> high;
  const auto lift = [&](int fd) {
    if (fd >= 64) return fd;  // the lock, which a duplicate would give up when it is closed
    high.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 200));
    return high.back().get();
  };
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  int target = 3;
  const auto pass = [&](int fd) {
    ::posix_spawn_file_actions_adddup2(&actions, lift(fd), target);
    return inherited(target++, fd);
  };
  ::posix_spawn_file_actions_adddup2(&actions, lift(out_there.get()), 1);
  WorkerEnvironment environment;
  environment.control = pass(control_there.get());
  environment.data = pass(data_there.get());
  if (own) environment.parent = pass(own.get());
  if (lock >= 0) environment.lock = pass(lock);
  environment.shutdown_grace_ns = options.shutdown_grace.count();
  environment.max_message_size = options.max_message_size;
  environment.stall_ns = options.stall.count();
  environment.worker = options.worker;
  if (options.forge == 1) ++environment.data.inode;

  std::vector<std::string> args{options.program};
  args.insert(args.end(), options.args.begin(), options.args.end());
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  std::string variable = std::string(environment_name) + "=";
  variable += options.forge == 2 ? "nonsense" : environment.to_string();
  std::vector<char*> env;
  for (char** e = environ; *e != nullptr; ++e) env.push_back(*e);
  if (options.forge != 3) env.push_back(variable.data());
  env.push_back(nullptr);

  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  if (options.own_group) ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, args[0].c_str(), &actions, &attributes, argv.data(), env.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw_errno("posix_spawn", error);
  return {pid, std::move(control), std::move(data), std::move(out)};
}

/// Nothing is left after a test: no child, no descriptor.
class Test : public ::testing::Test {
 protected:
  void SetUp() override { descriptors_ = open_descriptors(); }
  void TearDown() override {
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
    EXPECT_EQ(errno, ECHILD);
    EXPECT_EQ(open_descriptors(), descriptors_);
  }

  static void expect_clean_stop(Worker& worker) {
    worker.stop(0s, 5s);
    worker.stop_reply();
    EXPECT_EQ(worker.exit_status(), 0);
  }

 private:
  int descriptors_ = 0;
};

}  // namespace raw
