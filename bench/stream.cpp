// T-28: streams. The rate of items of 64 bytes beside that of calls with 64 in flight, the throughput of items of 64
// KiB, and the time until the first item.
#include <cstdint>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "support/coroutine.hpp"
#include "support/raw.hpp"

namespace {

using bench::Clock;
using bench::Placement;

constexpr std::size_t item_size = 64;
constexpr std::size_t block_size = 64 * 1024;
constexpr int callers = 64;
constexpr int rounds = 32;              // of 64 calls each
constexpr std::uint64_t items = 65536;  // in one iteration
constexpr std::uint64_t blocks = 2048;
constexpr int warm_up = 500;

double gibibytes_per_second(Clock::duration taken) {
  return static_cast<double>(blocks * block_size) / (1 << 30) / bench::seconds(taken);
}

// Items of 64 bytes ---------------------------------------------------------------------------------------------------

asio::awaitable<void> one_caller(drover::LocalWorker* worker, const std::string* payload) {
  for (int i = 0; i < rounds; ++i) co_await worker->call<std::string>("echo", *payload);
}

asio::awaitable<void> make_calls(benchmark::State* state, Placement placement) {
  const auto executor = co_await asio::this_coro::executor;
  auto options = bench::worker_options(placement);
  options.max_in_flight = callers;
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  const std::string payload(item_size, 'x');
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    bench::Group group(executor);
    for (int i = 0; i < callers; ++i) group.spawn(one_caller(&worker, &payload));
    co_await group.wait();
    const auto taken = Clock::now() - begin;
    samples.add(*state, taken, callers * rounds / bench::seconds(taken));
  }
  samples.report(*state);
  co_await worker.stop();
}

/// From the routine.
asio::awaitable<void> receive_items(benchmark::State* state, Placement placement, const char* routine) {
  drover::LocalWorker worker(co_await asio::this_coro::executor, bench::worker_options(placement));
  co_await worker.start();
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    auto stream = worker.stream<void, std::string>(routine, item_size, items);
    std::uint64_t count = 0;
    for (;; ++count) {
      const std::optional<std::string> item = co_await stream.next();
      if (!item) break;
    }
    if (count != items) throw std::runtime_error("items were lost");
    const auto taken = Clock::now() - begin;
    samples.add(*state, taken, static_cast<double>(items) / bench::seconds(taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()) * static_cast<double>(items));
  samples.report(*state);
  co_await worker.stop();
}

/// To the routine.
asio::awaitable<void> send_items(benchmark::State* state, Placement placement) {
  drover::LocalWorker worker(co_await asio::this_coro::executor, bench::worker_options(placement));
  co_await worker.start();
  const std::string item(item_size, 'x');
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    auto stream = worker.stream<std::uint64_t, void, std::string>("count");
    for (std::uint64_t i = 0; i < items; ++i) co_await stream.send(item);
    stream.finish();
    const std::uint64_t count = co_await stream.result();
    if (count != items) throw std::runtime_error("items were lost");
    const auto taken = Clock::now() - begin;
    samples.add(*state, taken, static_cast<double>(items) / bench::seconds(taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()) * static_cast<double>(items));
  samples.report(*state);
  co_await worker.stop();
}

// Items of 64 KiB -----------------------------------------------------------------------------------------------------

/// Writes all blocks for each byte that it receives. `copies`: each is a string of its own first.
template <bool copies>
void write_blocks(int fd) {
  const int send_buffer = 1 << 20;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
  const std::vector<char> block(block_size, 'x');
  for (char byte = 0; ::read(fd, &byte, 1) == 1;)
    for (std::uint64_t i = 0; i < blocks; ++i) {
      const std::string copy = copies ? std::string(block.data(), block.size()) : std::string();
      const char* const bytes = copies ? copy.data() : block.data();
      for (std::size_t sent = 0; sent < block_size;) {
        const ssize_t more = ::write(fd, bytes + sent, block_size - sent);
        if (more <= 0) return;
        sent += static_cast<std::size_t>(more);
      }
    }
}

template <bool copies>
void read_blocks_raw(benchmark::State& state, Placement placement) {
  const bench::ForkedPeer peer(placement, 0, write_blocks<copies>);
  std::vector<char> buffer(block_size);
  bench::Samples samples(state);
  const bench::Costs costs(peer.pid());
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = Clock::now();
    bench::checked(::write(peer.fd(), "x", 1), "write");
    for (std::size_t got = 0; got < blocks * block_size;) {
      const auto count =
          static_cast<std::size_t>(bench::checked(::read(peer.fd(), buffer.data(), buffer.size()), "read"));
      got += count;
      if (copies) {
        const std::string item(buffer.data(), count);
        benchmark::DoNotOptimize(item.data());
      }
    }
    const auto taken = Clock::now() - begin;
    samples.add(state, taken, gibibytes_per_second(taken));
  }
  costs.report(state, static_cast<double>(state.iterations()));
  samples.report(state);
}

asio::awaitable<void> receive_blocks(benchmark::State* state, Placement placement) {
  drover::LocalWorker worker(co_await asio::this_coro::executor, bench::worker_options(placement));
  co_await worker.start();
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    auto stream = worker.stream<void, std::string>("send_plain", block_size, blocks);
    std::uint64_t count = 0;
    for (;; ++count) {
      const std::optional<std::string> block = co_await stream.next();
      if (!block) break;
      if (block->size() != block_size) throw std::runtime_error("a block has another size");
    }
    if (count != blocks) throw std::runtime_error("blocks were lost");
    const auto taken = Clock::now() - begin;
    samples.add(*state, taken, gibibytes_per_second(taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
  co_await worker.stop();
}

// The first item ------------------------------------------------------------------------------------------------------

asio::awaitable<void> first_answer(benchmark::State* state, Placement placement, bool of_stream) {
  drover::LocalWorker worker(co_await asio::this_coro::executor, bench::worker_options(placement));
  co_await worker.start();
  const std::string payload(item_size, 'x');
  bench::Samples samples(*state);
  for (int i = 0; i < warm_up; ++i) co_await worker.call<std::string>("echo", payload);
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    if (of_stream) {
      auto stream = worker.stream<void, std::string>("send", item_size, std::uint64_t{1});
      const std::optional<std::string> item = co_await stream.next();
      samples.add(*state, Clock::now() - begin);
      co_await stream.result();
    } else {
      const std::string reply = co_await worker.call<std::string>("later", payload);
      samples.add(*state, Clock::now() - begin);
    }
  }
  samples.report(*state);
  co_await worker.stop();
}

asio::awaitable<void> send_in_coroutine(std::size_t size, std::uint64_t count, drover::Sink<std::string>& out) {
  const std::string item(size, 'x');
  for (std::uint64_t i = 0; i < count; ++i) co_await out.send(item);
}

void send_in_function(std::size_t size, std::uint64_t count, drover::Sink<std::string>& out) {
  const std::string item(size, 'x');
  for (std::uint64_t i = 0; i < count; ++i) out.write(item);
}

asio::awaitable<std::uint64_t> count_items(drover::Source<std::string>& in) {
  for (std::uint64_t count = 0;; ++count) {
    const std::optional<std::string> item = co_await in.next();
    if (!item) co_return count;
  }
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("echo", [](std::string text) { return text; });
  routines.add("later", [](std::string text) -> asio::awaitable<std::string> { co_return text; });
  routines.add("send", send_in_coroutine).add("send_plain", send_in_function).add("count", count_items);
  if (bench::in_worker()) return drover::serve(routines);

  for (const auto placement : {Placement::one_core, Placement::two_cores}) {
    const bool one = placement == Placement::one_core;
    const std::string where = one ? "/1c/" : "/2c/";
    bench::add_coroutine("T-28/items" + where + "raw", 300, placement, make_calls, placement);
    bench::add_coroutine("T-28/items" + where + "drover", 10, placement, receive_items, placement, "send");
    bench::add_coroutine("T-28/items" + where + "plain", 10, placement, receive_items, placement, "send_plain");
    bench::add_coroutine("T-28/items" + where + "sent", 10, placement, send_items, placement);
    bench::add("T-28/blocks" + where + "raw", 15, read_blocks_raw<false>, placement);
    bench::add("T-28/blocks" + where + "copied", 15, read_blocks_raw<true>, placement);
    bench::add_coroutine("T-28/blocks" + where + "drover", 15, placement, receive_blocks, placement);
    bench::add_coroutine("T-28/first" + where + "raw", one ? 80000 : 12000, placement, first_answer, placement, false);
    bench::add_coroutine("T-28/first" + where + "drover", one ? 50000 : 8000, placement, first_answer, placement, true);
  }
  return bench::run(argc, argv);
}
