// A worker for tests of calls and pools. The routines of worker.cpp, those of its own, and among them some that break
// the protocol. Arguments are steps on the way to serve().
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/sockios.h>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <signal.h>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <drover/worker/serve.hpp>
#include <drover/worker/this_call.hpp>

#include "support/call_types.hpp"
#include "support/typed_routines.hpp"
#include "support/worker_routines.hpp"

namespace {

using support::leave;

constexpr int control = 3, data = 4;

struct RawHeader {  // as in wire/frame.hpp, written down once more
  std::uint32_t size = 0;
  std::uint8_t type = 8;  // RESULT
  std::uint8_t status = 0;
  std::uint16_t core = 0;
  std::uint32_t slot = 0;
  std::uint32_t zero = 0;
  std::uint64_t id = 0;
};
static_assert(sizeof(RawHeader) == 24);

void send_raw(int fd, const void* bytes, std::size_t size) {
  if (::write(fd, bytes, size) != static_cast<ssize_t>(size)) leave(97);
}

/// What a worker must not send, before its answer to call `id` in slot 0, or instead of it.
void misbehave(const std::string& how, std::uint64_t id) {
  RawHeader header;
  header.id = id;
  const std::string garbage(4096, '\xa5');
  const auto say = [&](int fd, const std::string& body = {}) {
    send_raw(fd, &header, sizeof header);
    send_raw(fd, body.data(), body.size());
  };
  if (how == "garbage") send_raw(data, garbage.data(), garbage.size());
  if (how == "garbage on control") send_raw(control, garbage.data(), garbage.size());
  if (how == "over the limit") header.size = 0xfffffff0U, say(data);
  if (how == "unknown type") header.type = 99, say(data);
  if (how == "a call") header.type = 7, say(data);
  if (how == "padding") header.zero = 1, say(data);
  if (how == "unknown slot") header.slot = 77, say(data);
  if (how == "huge slot") header.slot = 0xffffffffU, say(data);
  if (how == "other id") header.id += 1000, say(data);
  if (how == "twice") say(data), say(data);
  if (how == "unknown status") header.status = 200, say(data);
  if (how == "result on control") say(control);
  if (how == "second greeting") header.type = 1, header.id = std::uint64_t{0x64726f76} << 32 | 1, say(control);
  if (how == "malformed status reply") header.type = 6, header.size = 3, say(control, "abc");
  if (how == "error that is none") header.status = 1, header.size = 2, say(data, "\xff\xff");
  if (how == "error without a text") header.status = 2, say(data);
  if (how == "a reply to nobody on control")
    header.type = 6, header.id = 999, header.size = 24, say(control, garbage.substr(0, 24));
  if (how.ends_with("on control") || how == "second greeting" || how == "malformed status reply") support::pass(60000);
  if (how == "half a header") send_raw(data, &header, 10), leave(4);
  if (how == "half a body") header.size = 1000, say(data, "not a thousand bytes"), leave(4);
}

/// A copy of this process, in a group of its own, that holds its sockets open.
int hold_sockets() {
  const pid_t pid = ::fork();
  if (pid > 0 && ::setpgid(pid, 0) != 0) leave(95);  // it stays when this one's group is killed
  if (pid != 0) return pid;
  ::alarm(30);
  for (;;) ::pause();
}

struct Unusual : std::runtime_error {
  using std::runtime_error::runtime_error;
};

asio::awaitable<void> wait_for(int milliseconds) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
  co_await timer.async_wait(asio::use_awaitable);
}

/// Blocks the main loop before it suspends for the first time.
asio::awaitable<void> block_in_coroutine() {
  for (;;) ::pause();
  co_return;
}

asio::awaitable<std::string> slow_echo(std::string text, int milliseconds) {
  co_await wait_for(milliseconds);
  co_return text;
}

asio::awaitable<support::Parcel> forward(support::Parcel parcel) {
  co_await wait_for(1);
  co_return parcel;
}

/// How many of these ran at once.
asio::awaitable<int> overlap() {
  static int running = 0;
  const int at_once = ++running;
  co_await wait_for(1);
  --running;
  co_return at_once;
}

asio::awaitable<int> fail_later(std::string text) {
  co_await wait_for(1);
  throw Unusual(text);
}

/// Ends this process once its answer is in the socket, which the parent must not read meanwhile.
void exit_answered(int code) {
  std::thread([code] {
    for (int unread = 0; unread == 0; std::this_thread::yield())
      if (::ioctl(data, SIOCOUTQ, &unread) != 0) leave(96);
    leave(code);
  }).detach();
}

int bumps = 0;

void append(std::string path, int number) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  const std::string line = std::to_string(number) + "\n";
  if (::write(fd, line.data(), line.size()) < 0) leave(92);
  ::close(fd);
}

void add_types(drover::Routines& routines) {
  using std::string, std::vector, std::map, std::tuple, std::optional;
  routines.add("nothing", [] {})
      .add("add", [](int a, long b) { return a + b; })
      .add("join",
           [](const vector<string>& parts, std::string_view separator) {
             string text;
             for (const auto& part : parts) text += (text.empty() ? "" : string(separator)) + part;
             return text;
           })
      .add("invert",
           [](map<string, int> m) {
             map<int, string> inverted;
             for (auto& [key, value] : m) inverted[value] = key;
             return inverted;
           })
      .add("swap", [](tuple<int, string> t) { return tuple(std::get<1>(t), std::get<0>(t)); })
      .add("half", [](int x) -> optional<int> { return x % 2 == 0 ? optional(x / 2) : std::nullopt; })
      .add("mirror", [](support::Point p) { return support::Point{p.y, p.x}; })
      .add("fahrenheit", [](support::Celsius c) { return c.degrees() * 9 / 5 + 32; })
      .add("boil", [] { return support::Celsius(100); })
      .add("shout", [](support::Message m) { return m.text += "!", m; })
      .add("wrap", [](std::unique_ptr<string> text) { return support::Parcel{std::move(text)}; })
      .add("forward", forward)
      .add("sum",
           [](std::span<const std::byte> bytes) {
             std::uint64_t sum = 0;
             for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
             return sum;
           })
      .add("bytes", [](std::uint64_t count) { return vector<std::byte>(count, std::byte{1}); })
      .add("blob", [](vector<std::byte> bytes) { return bytes; })
      .add("slow_echo", slow_echo)
      .add("leak",
           [](std::uint64_t bytes) {
             static vector<string> leaked;
             leaked.emplace_back(bytes, 'x');
           })
      .add("overlap", overlap);
}

void add_typed(drover::Routines& routines) {
  using namespace support;
  routines
      .add(word_count,
           [](std::string_view text) {
             int words = 0;
             bool within = false;
             for (const char c : text) words += !std::exchange(within, c != ' ') && within ? 1 : 0;
             return words;
           })
      .add(rank,
           [](Page page, int by) {
             page.score = page.score.value_or(0) + by;
             return page;
           })
      .add(do_nothing, [] {})
      .add(typed_sum,
           [](std::stop_token, std::span<const std::byte> bytes) {
             std::uint64_t sum = 0;
             for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
             return sum;
           })
      .add(later,
           [](std::stop_token, const std::string& text) -> asio::awaitable<std::string> {
             co_await wait_for(1);
             co_return text;
           })
      .add(describe_both,
           [](std::variant<int, std::string> one, std::optional<long> two) {
             const std::string text = one.index() == 0 ? std::to_string(std::get<0>(one)) : std::get<1>(one);
             return text + "," + (two ? std::to_string(*two) : "none");
           })
      .add(increment,
           [](auto value) {  // a template
             ++*value;
             return value;
           })
      .add(numbers, [](std::uint8_t a, double b, float c) { return static_cast<std::uint8_t>(a + b + c); })
      .add(length, [](const std::string& text) { return text.size(); })
      .add(twice, [](int x) { return 2 * x; })
      .add(is_long, [](std::chrono::milliseconds time) { return time > std::chrono::seconds(1); });
}

void add_failures(drover::Routines& routines) {
  routines.add("throw", [](std::string text) { throw std::runtime_error(text); })
      .add("throw_unusual", [](std::string text) -> int { throw Unusual(text); })
      .add("throw_int", [] { throw 42; })
      .add("fail_later", fail_later)
      .add("misbehave", misbehave)
      .add("hold_sockets", hold_sockets)
      .add("shut_control",
           [] {
             ::shutdown(control, SHUT_WR);
             ::raise(SIGSTOP);
           })
      .add("soil_control",
           [] {
             const std::string nonsense(64, 'x');
             send_raw(control, nonsense.data(), nonsense.size());
             ::raise(SIGSTOP);
           })
      .add("bump", [] { return ++bumps; })
      .add("bumped", [] { return bumps; })
      .add("append", append)
      .add("exit_answered", exit_answered)
      .add("block_in_coroutine", block_in_coroutine)
      .add("nap_once",
           [](int milliseconds) {
             std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
             return std::string("slept");
           })
      .add("attempt", [] { return drover::this_call::attempt(); })
      .add("left",
           [] {
             const auto deadline = drover::this_call::deadline();
             return deadline ? std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - drover::Clock::now())
                             : std::chrono::milliseconds(-1);
           })
      .add("exit_before_attempt",
           [](unsigned wanted) {
             if (drover::this_call::attempt() < wanted) leave(9);
             return drover::this_call::attempt();
           })
      .add("exit_if_absent", [](std::string path) {  // once only
        const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0) leave(9);
      });
}

}  // namespace

int main(int argc, char** argv) {
  drover::in_worker();
  for (int at = 1; at < argc; ++at) {
    const std::string step = argv[at];
    if (step == "sleep" && at + 1 < argc)
      support::pass(std::atoi(argv[++at]));
    else if (step == "wait-if" && at + 1 < argc)  // a file exists: for as long as it does
      for (const char* const path = argv[++at]; ::access(path, F_OK) == 0;) support::pass(5);
    else if (step == "exit-if" && at + 2 < argc) {  // a file exists: with this code
      const std::string path = argv[++at];
      const int code = std::atoi(argv[++at]);
      if (::access(path.c_str(), F_OK) == 0) leave(code);
    } else if (step == "exit-once" && at + 1 < argc) {  // only one of many can make the file
      const int fd = ::open(argv[++at], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      if (fd >= 0) leave(7);
    } else {
      leave(96);
    }
  }
  drover::Routines routines = support::worker_routines();
  add_types(routines);
  add_typed(routines);
  add_failures(routines);
  return drover::serve(routines);
}
