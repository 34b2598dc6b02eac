// A worker for tests of streams.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <fstream>
#include <optional>
#include <signal.h>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/worker/serve.hpp>
#include <drover/worker/this_call.hpp>

#include "support/typed_routines.hpp"

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

/// As one that computes between its items.
void count_slowly(int n, Sink<int>& out) {
  for (int i = 0; i < n; ++i) {
    out.write(i);
    ::usleep(20'000);
  }
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

void sum_slowly(Source<int>& in) {
  while (in.read()) ::usleep(20'000);
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

/// Blocks in a coroutine.
asio::awaitable<int> echo_blocking(Source<std::string> in, Sink<std::string> out) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(1));
  co_await timer.async_wait(asio::use_awaitable);
  co_return echo_plain(in, out);
}

/// The test reads standard output.
void tell(char what) { [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, &what, 1); }

/// Tells how a wait ends that is not the routine's: 'a' aborted, 'l' a std::logic_error, 'e' anything else.
template <class Wait>
asio::awaitable<void> tell_end(Wait wait) {
  char end = 'e';
  try {
    co_await wait();
  } catch (const std::system_error&) {
    end = 'a';
  } catch (const std::logic_error&) {
    end = 'l';
  }
  tell(end);
}

/// Leaves two coroutines that wait for ever.
asio::awaitable<void> leave_waiting(Source<int> in, Sink<std::string> out) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  const auto read = [in]() mutable -> asio::awaitable<void> { (void)co_await in.next(); };
  const auto write = [out]() mutable -> asio::awaitable<void> {
    for (;;) co_await out.send(std::string(100'000, 'x'));
  };
  asio::co_spawn(executor, tell_end(read), asio::detached);
  asio::co_spawn(executor, tell_end(write), asio::detached);
  asio::steady_timer timer(executor, std::chrono::milliseconds(1));
  co_await timer.async_wait(asio::use_awaitable);
}

/// Uses its Sink when its frame is destroyed.
struct LastWords {
  ~LastWords() {
    try {
      out.latest(1);
    } catch (const std::logic_error&) {
      tell('l');
    } catch (const std::system_error&) {
      tell('a');
    }
  }
  Sink<int> out;
};

asio::awaitable<void> last_words(Sink<int> out) {
  const LastWords words{out};
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::hours(1));
  co_await timer.async_wait(asio::use_awaitable);
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
  routines.add(support::count_items, count).add("count_plain", count_plain);
  routines.add(support::sum_items, sum).add("sum_plain", sum_plain);
  routines.add(support::echo_items, echo).add("echo_plain", echo_plain);
  routines.add("count_slowly", count_slowly).add("sum_slowly", sum_slowly);
  routines.add("blocks", blocks).add("blocks_plain", blocks_plain);
  routines.add("progress", [](int n, Sink<int>& out) {
    for (int i = 1; i <= n; ++i) out.latest(i);
  });
  // Opening a FIFO blocks until somebody opens its other end.
  routines.add("progress_and_wait", [](const std::string& fifo, Sink<int>& out) {
    out.write(-1);
    for (int i = 1; i <= 5; ++i) out.latest(i);
    ::close(::open(fifo.c_str(), O_RDONLY | O_CLOEXEC));
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
  // Does not read before everything that the test sends has arrived.
  routines.add("sum_late", [](Source<int> in) -> asio::awaitable<long> {
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(200));
    co_await timer.async_wait(asio::use_awaitable);
    co_return sum_plain(in);
  });
  routines.add("echo_blocking", echo_blocking).add("leave_waiting", leave_waiting).add("last_words", last_words);
  routines.add("peek", [](std::stop_token, Source<int>&) {});
  routines.add("wait", [](Source<int> in) -> asio::awaitable<void> {
    tell('b');
    return tell_end([in]() mutable -> asio::awaitable<void> { (void)co_await in.next(); });
  });
  routines.add("report_and_work", [](std::stop_token stop, Sink<int>& out) {
    out.latest(7);
    while (!stop.stop_requested()) ::usleep(1000);
  });
  routines.add("tell", [](char what) { tell(what); });
  routines.add("sleep", [](int ms) { ::usleep(static_cast<unsigned>(ms) * 1000); });
  routines.add("throw_in_loop",
               []() -> asio::awaitable<void> { asio::post(co_await asio::this_coro::executor, [] { throw 1; }); });
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
  try {
    return drover::serve(routines);
  } catch (int) {
    return 3;
  }
}
