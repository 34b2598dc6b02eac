// A worker for tests of streams.
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/this_coro.hpp>

#include <drover/worker/serve.hpp>
#include <drover/worker/this_call.hpp>

namespace {

using drover::Sink;
using drover::Source;

asio::awaitable<long> count(int n, Sink<int>& out) {
  long sum = 0;
  for (int i = 0; i < n; ++i) {
    co_await out.send(i);
    sum += i;
  }
  co_return sum;
}

long count_plain(int n, Sink<int>& out) {
  long sum = 0;
  for (int i = 0; i < n; ++i) {
    out.write(i);
    sum += i;
  }
  return sum;
}

asio::awaitable<long> sum(Source<int>& in) {
  long sum = 0;
  for (;;) {
    const std::optional<int> item = co_await in.next();
    if (!item) co_return sum;
    sum += *item;
  }
}

long sum_plain(Source<int>& in) {
  long sum = 0;
  while (const std::optional<int> item = in.read()) sum += *item;
  return sum;
}

asio::awaitable<int> echo(Source<std::string> in, Sink<std::string> out) {
  for (int items = 0;; ++items) {
    std::optional<std::string> item = co_await in.next();
    if (!item) co_return items;
    co_await out.send(std::move(*item));
  }
}

int echo_plain(Source<std::string>& in, Sink<std::string>& out) {
  for (int items = 0;; ++items) {
    std::optional<std::string> item = in.read();
    if (!item) return items;
    out.write(std::move(*item));
  }
}

asio::awaitable<void> blocks(std::size_t size, std::uint64_t n, Sink<std::string>& out) {
  for (std::uint64_t i = 0; i < n; ++i) co_await out.send(std::string(size, static_cast<char>('a' + i % 26)));
}

void blocks_plain(std::size_t size, std::uint64_t n, Sink<std::string>& out) {
  for (std::uint64_t i = 0; i < n; ++i) out.write(std::string(size, static_cast<char>('a' + i % 26)));
}

std::optional<Sink<int>> kept_sink;
std::optional<Source<int>> kept_source;

/// Uses what it has kept of another call. Returns what that throws.
std::string use_kept() {
  std::string text;
  const auto note = [&](auto use) {
    try {
      use();
      text += "nothing;";
    } catch (const std::logic_error& e) {
      text += std::string(e.what()) + ';';
    }
  };
  note([] { kept_sink->write(1); });
  note([] { kept_sink->latest(1); });
  note([] { (void)kept_sink->send(1); });
  note([] { (void)kept_source->read(); });
  note([] { (void)kept_source->next(); });
  return text;
}

asio::awaitable<std::string> two_readers(Source<int>& in) {
  asio::co_spawn(
      co_await asio::this_coro::executor, [](Source<int> same) -> asio::awaitable<void> { co_await same.next(); }(in),
      asio::detached);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  asio::awaitable<void> pass =
      asio::co_spawn(executor, []() -> asio::awaitable<void> { co_return; }, asio::use_awaitable);
  co_await std::move(pass);  // the other one waits now
  try {
    co_await in.next();
  } catch (const std::logic_error& e) {
    co_return e.what();
  }
  co_return "nothing";
}

long resident_pages() {
  std::ifstream statm("/proc/self/statm");
  long all = 0, resident = 0;
  statm >> all >> resident;
  return resident;
}

}  // namespace

int main() {
  drover::in_worker();
  drover::Routines routines;
  routines.add("count", count).add("count_plain", count_plain);
  routines.add("sum", sum).add("sum_plain", sum_plain);
  routines.add("echo", echo).add("echo_plain", echo_plain);
  routines.add("blocks", blocks).add("blocks_plain", blocks_plain);
  routines.add("progress", [](int n, Sink<int>& out) {
    for (int i = 1; i <= n; ++i) out.latest(i);
  });
  routines.add("items_and_progress", [](Sink<int>& out) -> asio::awaitable<void> {
    out.latest(-1);
    co_await out.send(1);
    out.latest(-2);
    co_await out.send(2);
    out.latest(-3);
  });
  routines.add("fail_after", [](int n, Sink<int>& out) -> asio::awaitable<int> {
    for (int i = 0; i < n; ++i) co_await out.send(i);
    throw std::runtime_error("enough");
  });
  routines.add("die_after", [](int n, Sink<int>& out) {
    for (int i = 0; i < n; ++i) out.write(i);
    ::kill(::getpid(), SIGKILL);
  });
  routines.add("first", [](Source<int>& in) -> asio::awaitable<int> {
    const std::optional<int> item = co_await in.next();
    co_return item.value_or(-1);
  });
  routines.add("keep", [](Source<int>& in, Sink<int>& out) {
    kept_source = in;
    kept_sink = out;
  });
  routines.add("use_kept", use_kept);
  routines.add("two_readers", two_readers);
  routines.add("text", [](Sink<std::string>& out) { out.write("no number"); });
  routines.add("reason", [](Sink<int>& out) {
    try {
      for (;;) out.write(1);
    } catch (const std::system_error&) {
      if (drover::this_call::reason() != drover::CancelReason::caller) std::abort();
      throw;
    }
  });
  routines.add("stop_token", [](std::stop_token stop, int n, Sink<int>& out) {
    for (int i = 0; i < n && !stop.stop_requested(); ++i) out.write(i);
    return n;
  });
  routines.add("square", [](int x) { return x * x; });
  routines.add("resident_pages", resident_pages);
  return drover::serve(routines);
}
