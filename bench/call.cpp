// T-7: the latency of one call with 64 bytes in each direction. T-7s: the same with WorkerOptions::spin. T-8: the rate
// of such calls with 64 in flight. T-17: the rate with 64 callers and the default max_in_flight.
#include <array>
#include <string>
#include <sys/socket.h>

#include "support/coroutine.hpp"
#include "support/least_call.hpp"
#include "support/raw.hpp"

namespace {

using bench::Clock;
using bench::Placement;

constexpr std::size_t payload_size = 64;
constexpr int warm_up = 500;
constexpr int in_flight = 64;
constexpr int rounds = 32;  // of 64 calls each, in one iteration of T-8

// T-7 -----------------------------------------------------------------------------------------------------------------

/// Polls the descriptor without ever sleeping.
class Spinning {
 public:
  explicit Spinning(int fd) : fd_(fd) {}
  void wait() const {
    char byte = 0;
    while (::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
    }
  }

 private:
  int fd_;
};

/// Sends back all that it receives, until the end of file. One write answers all that has arrived.
template <class Loop>
void echo(int fd) {
  Loop loop(fd);
  std::array<char, 65536> buffer;
  for (;;) {
    loop.wait();
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size <= 0) return;
    if (::write(fd, buffer.data(), static_cast<std::size_t>(size)) != size) return;
  }
}

template <class Loop>
void call_raw(benchmark::State& state, Placement placement) {
  const bench::ForkedPeer peer(placement, SOCK_NONBLOCK, echo<Loop>);
  Loop loop(peer.fd());
  std::array<char, 4096> buffer{};
  const auto call = [&] {
    bench::checked(::write(peer.fd(), buffer.data(), payload_size), "write");
    loop.wait();
    bench::checked(::read(peer.fd(), buffer.data(), buffer.size()), "read");
  };
  for (int i = 0; i < warm_up; ++i) call();
  bench::Samples samples(state);
  const bench::Costs costs(peer.pid());
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = Clock::now();
    call();
    samples.add(state, Clock::now() - begin);
  }
  costs.report(state, static_cast<double>(state.iterations()));
  samples.report(state);
}

asio::awaitable<void> call_drover(benchmark::State* state, Placement placement, drover::Duration spin) {
  const auto executor = co_await asio::this_coro::executor;
  auto options = bench::worker_options(placement);
  options.spin = spin;
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  const std::string payload(payload_size, 'x');
  for (int i = 0; i < warm_up; ++i) co_await worker.call<std::string>("echo", payload);
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    const std::string reply = co_await worker.call<std::string>("echo", payload);
    samples.add(*state, Clock::now() - begin);
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
  co_await worker.stop();
}

/// The least that a call needs on Asio, see LeastCaller.
asio::awaitable<void> call_least(benchmark::State* state, Placement placement) {
  const bench::ForkedPeer peer(placement, SOCK_NONBLOCK, echo<bench::ReadableLoop>);
  bench::LeastCaller caller(co_await asio::this_coro::executor, peer.fd());
  const std::string payload(payload_size, 'x');
  for (int i = 0; i < warm_up; ++i) co_await caller.call(payload);
  bench::Samples samples(*state);
  const bench::Costs costs(peer.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    const std::string reply = co_await caller.call(payload);
    samples.add(*state, Clock::now() - begin);
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
}

// T-8 -----------------------------------------------------------------------------------------------------------------

/// Sends 64 requests, with one write for each or with one for all, then receives 64 replies.
void calls_raw(benchmark::State& state, Placement placement, bool batched) {
  const bench::ForkedPeer peer(placement, SOCK_NONBLOCK, echo<bench::ReadableLoop>);
  bench::ReadableLoop loop(peer.fd());
  std::array<char, 65536> buffer{};
  const auto calls = [&] {
    const int writes = batched ? 1 : in_flight;
    const std::size_t size = in_flight * payload_size / static_cast<std::size_t>(writes);
    for (int i = 0; i < writes; ++i) bench::checked(::write(peer.fd(), buffer.data(), size), "write");
    for (std::size_t got = 0; got < in_flight * payload_size;) {
      loop.wait();
      got += static_cast<std::size_t>(bench::checked(::read(peer.fd(), buffer.data(), buffer.size()), "read"));
    }
  };
  calls();
  bench::Samples samples(state);
  const bench::Costs costs(peer.pid());
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = Clock::now();
    for (int i = 0; i < rounds; ++i) calls();
    const auto taken = Clock::now() - begin;
    samples.add(state, taken, in_flight * rounds / bench::seconds(taken));
  }
  costs.report(state, static_cast<double>(state.iterations()) * in_flight * rounds);
  samples.report(state);
}

asio::awaitable<void> one_caller(drover::LocalWorker* worker, const std::string* payload) {
  for (int i = 0; i < rounds; ++i) co_await worker->call<std::string>("echo", *payload);
}

asio::awaitable<void> all_callers(drover::LocalWorker* worker, const std::string* payload) {
  bench::Group callers(co_await asio::this_coro::executor);
  for (int i = 0; i < in_flight; ++i) callers.spawn(one_caller(worker, payload));
  co_await callers.wait();
}

/// 64 callers. A max_in_flight of 0 stands for the default.
asio::awaitable<void> calls_drover(benchmark::State* state, Placement placement, std::size_t max_in_flight) {
  const auto executor = co_await asio::this_coro::executor;
  auto options = bench::worker_options(placement);
  if (max_in_flight != 0) options.max_in_flight = max_in_flight;
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  const std::string payload(payload_size, 'x');
  co_await all_callers(&worker, &payload);
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    co_await all_callers(&worker, &payload);
    const auto taken = Clock::now() - begin;
    samples.add(*state, taken, in_flight * rounds / bench::seconds(taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()) * in_flight * rounds);
  samples.report(*state);
  co_await worker.stop();
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("echo", [](std::string text) { return text; });
  if (bench::in_worker()) return drover::serve(routines);

  for (const auto placement : {Placement::one_core, Placement::two_cores}) {
    const bool one = placement == Placement::one_core;
    const std::string where = one ? "/1c/" : "/2c/";
    bench::add("T-7" + where + "raw", one ? 150000 : 12000, call_raw<bench::ReadableLoop>, placement);
    if (!one) bench::add("T-7" + where + "spinning", 100000, call_raw<Spinning>, placement);
    if (one) bench::add_coroutine("T-7" + where + "least", 150000, placement, call_least, placement);
    const drover::Duration sleeps{}, spins = std::chrono::milliseconds(1);
    bench::add_coroutine("T-7" + where + "drover", one ? 100000 : 12000, placement, call_drover, placement, sleeps);
    if (!one) bench::add_coroutine("T-7s" + where + "drover", 50000, placement, call_drover, placement, spins);
    bench::add("T-8" + where + "raw", 300, calls_raw, placement, false);
    bench::add("T-8" + where + "batched", 300, calls_raw, placement, true);
    bench::add_coroutine("T-8" + where + "drover", 300, placement, calls_drover, placement, std::size_t{in_flight});
    bench::add_coroutine("T-17" + where + "raw", 60, placement, calls_drover, placement, std::size_t{2});
    bench::add_coroutine("T-17" + where + "drover", 60, placement, calls_drover, placement, std::size_t{0});
  }
  return bench::run(argc, argv);
}
