// Streams of many gigabytes, in both directions, by coroutines and by plain functions: memory stays as it is in both
// processes, whoever is slow.
//
//     streams [gigabytes]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#include <drover/run.hpp>
#include <drover/worker/serve.hpp>

namespace {

constexpr std::size_t item_size = 60'000;

long resident_kib(const std::string& process) {
  std::ifstream status("/proc/" + process + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:")) return std::strtol(line.c_str() + 6, nullptr, 10);
  return 0;
}

std::string item_of(std::uint64_t number) { return std::string(item_size, static_cast<char>('a' + number % 26)); }

/// The largest resident sets of both, while a stream runs.
struct Memory {
  explicit Memory(pid_t worker) : pid(std::to_string(worker)) {}
  void look() {
    if (looks++ % 1000 != 0) return;
    parent = std::max(parent, resident_kib("self"));
    child = std::max(child, resident_kib(pid));
    if (looks < 20'000) parent_before = parent, child_before = child;  // the buffers are there by now
  }
  bool flat() const { return parent < parent_before + 8192 && child < child_before + 8192; }

  std::string pid;
  std::uint64_t looks = 0;
  long parent = 0, child = 0, parent_before = 0, child_before = 0;
};

bool report(const char* what, std::uint64_t items, std::uint64_t expected, const Memory& memory) {
  const bool good = items == expected && memory.flat();
  std::printf("%s: %llu of %llu items; parent %ld KiB, then %ld; worker %ld KiB, then %ld: %s\n", what,
              static_cast<unsigned long long>(items), static_cast<unsigned long long>(expected), memory.parent_before,
              memory.parent, memory.child_before, memory.child, good ? "good" : "BAD");
  return good;
}

asio::awaitable<void> pause() {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::microseconds(100));
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<bool> from_worker(drover::LocalWorker& worker, const char* routine, std::uint64_t items, bool slow) {
  Memory memory(worker.pid());
  auto stream = worker.stream<void, std::string>(routine, items);
  std::uint64_t count = 0;
  for (;; ++count) {
    const std::optional<std::string> item = co_await stream.next();
    if (!item) break;
    if (*item != item_of(count)) break;
    memory.look();
    if (slow && count % 100 == 0) co_await pause();
  }
  co_return report(routine, count, items, memory);
}

asio::awaitable<bool> to_worker(drover::LocalWorker& worker, const char* routine, std::uint64_t items) {
  Memory memory(worker.pid());
  auto stream = worker.stream<std::uint64_t, void, std::string>(routine);
  for (std::uint64_t i = 0; i < items; ++i) {
    co_await stream.send(item_of(i));
    memory.look();
  }
  stream.finish();
  const std::uint64_t count = co_await stream.result();
  co_return report(routine, count, items, memory);
}

asio::awaitable<bool> all(std::uint64_t gigabytes) {
  drover::LocalWorker worker(co_await asio::this_coro::executor);
  co_await worker.start();
  const std::uint64_t items = gigabytes * 1'000'000'000 / item_size / 4;  // of each of four streams
  bool good = co_await from_worker(worker, "send", items, true);
  good = co_await from_worker(worker, "write", items, false) && good;
  good = co_await to_worker(worker, "next", items) && good;
  good = co_await to_worker(worker, "read", items) && good;
  co_await worker.stop();
  co_return good;
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("send", [](std::uint64_t items, drover::Sink<std::string>& out) -> asio::awaitable<void> {
    for (std::uint64_t i = 0; i < items; ++i) co_await out.send(item_of(i));
  });
  routines.add("write", [](std::uint64_t items, drover::Sink<std::string>& out) {
    for (std::uint64_t i = 0; i < items; ++i) out.write(item_of(i));
  });
  routines.add("next", [](drover::Source<std::string>& in) -> asio::awaitable<std::uint64_t> {
    for (std::uint64_t count = 0;; ++count) {
      const std::optional<std::string> item = co_await in.next();
      if (!item || *item != item_of(count)) co_return count;
    }
  });
  routines.add("read", [](drover::Source<std::string>& in) {
    std::uint64_t count = 0;
    while (const std::optional<std::string> item = in.read()) {
      if (*item != item_of(count)) break;
      ++count;
    }
    return count;
  });
  if (drover::in_worker()) return drover::serve(routines);

  const std::uint64_t gigabytes = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10;
  bool good = false;
  const int code = drover::run_main([&]() -> asio::awaitable<void> { good = co_await all(gigabytes); }());
  return code != 0 ? code : good ? 0 : 1;
}
