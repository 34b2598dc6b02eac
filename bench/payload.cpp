// T-9: the throughput of large arguments in one direction. The result of such a call is the size of its argument.
// T-24: the same with arguments in shared memory, into which each payload is copied; and with results in such memory.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/coroutine.hpp"
#include "support/raw.hpp"

namespace {

using bench::Clock;
using bench::Placement;

double gibibytes_per_second(std::size_t size, Clock::duration taken) {
  return static_cast<double>(size) / (1 << 30) / bench::seconds(taken);
}

/// Receives payloads of `size` bytes into one buffer until the end of file, and replies to each with one byte.
void receive_payloads(int fd, std::size_t size) {
  std::vector<char> buffer(size);
  for (;;) {
    for (std::size_t got = 0; got < size;) {
      const ssize_t more = ::read(fd, buffer.data() + got, size - got);
      if (more <= 0) return;
      got += static_cast<std::size_t>(more);
    }
    if (::write(fd, "x", 1) != 1) return;
  }
}

/// `wide` enlarges the send buffer as drover does. `fresh` sends each payload from memory of its own, which is freed
/// once it has been sent, as that of a string that was moved in; otherwise all come from one place.
void send_raw(benchmark::State& state, Placement placement, std::size_t size, bool wide, bool fresh) {
  const bench::ForkedPeer peer(placement, 0, [size](int fd) { receive_payloads(fd, size); });
  const int send_buffer = 1 << 20;
  if (wide)
    bench::checked(::setsockopt(peer.fd(), SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer), "setsockopt");
  const std::vector<char> payload(size, 'x');
  const auto call = [&](std::string own) {
    const char* const from = own.empty() ? payload.data() : own.data();
    for (std::size_t sent = 0; sent < size;)
      sent += static_cast<std::size_t>(bench::checked(::write(peer.fd(), from + sent, size - sent), "write"));
    own = std::string();
    bench::receive_byte(peer.fd());
  };
  call({});
  bench::Samples samples(state);
  const bench::Costs costs(peer.pid());
  for ([[maybe_unused]] auto _ : state) {
    std::string own = fresh ? std::string(size, 'x') : std::string();
    const auto begin = Clock::now();
    call(std::move(own));
    const auto taken = Clock::now() - begin;
    samples.add(state, taken, gibibytes_per_second(size, taken));
  }
  costs.report(state, static_cast<double>(state.iterations()));
  samples.report(state);
}

enum class Passed { moved, copied, borrowed };

asio::awaitable<void> send_drover(benchmark::State* state, Placement placement, std::size_t size, Passed passed) {
  const auto executor = co_await asio::this_coro::executor;
  auto options = bench::worker_options(placement);
  options.max_message_size = size + 4096;
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  const std::string payload(size, 'x');
  for (int i = 0; i < 2; ++i) co_await worker.call<std::uint64_t>("size", payload);
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    std::string own = passed == Passed::moved ? payload : std::string();
    const auto begin = Clock::now();
    auto call = passed == Passed::moved    ? worker.call<std::uint64_t>("size", std::move(own))
                : passed == Passed::copied ? worker.call<std::uint64_t>("size", payload)
                                           : worker.call<std::uint64_t>("size", drover::borrow(payload));
    const auto received = co_await std::move(call);
    const auto taken = Clock::now() - begin;
    if (received != size) throw std::runtime_error("the worker received another size");
    samples.add(*state, taken, gibibytes_per_second(size, taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
  co_await worker.stop();
}

enum class Memory { used_again, fresh };

/// Copies a payload to shared memory and sends that. The worker sees it, and does not read it, as in
/// receive_payloads().
asio::awaitable<void> send_shared(benchmark::State* state, Placement placement, std::size_t size, Memory memory) {
  const auto executor = co_await asio::this_coro::executor;
  auto options = bench::worker_options(placement);
  options.max_message_size = size + 4096;
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  const std::string payload(size, 'x');
  drover::SharedBlocks blocks;
  const auto shared = [&] {
    return memory == Memory::fresh ? drover::Shared<std::string>::copy_of(payload)
                                   : blocks.copy_of<std::string>(payload);
  };
  for (int i = 0; i < 2; ++i) {
    drover::Shared<std::string> argument = shared();
    co_await worker.call<std::uint64_t>("shared_size", std::move(argument));
  }
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    drover::Shared<std::string> argument = shared();
    const auto received = co_await worker.call<std::uint64_t>("shared_size", std::move(argument));
    const auto taken = Clock::now() - begin;
    if (received != size) throw std::runtime_error("the worker received another size");
    samples.add(*state, taken, gibibytes_per_second(size, taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
  co_await worker.stop();
}

/// The worker copies a payload to fresh memory and returns it.
asio::awaitable<void> receive_shared(benchmark::State* state, Placement placement, std::size_t size) {
  const auto executor = co_await asio::this_coro::executor;
  auto options = bench::worker_options(placement);
  options.max_message_size = size + 4096;
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  for (int i = 0; i < 2; ++i) (void)co_await worker.call<drover::Shared<std::string>>("share", size);
  bench::Samples samples(*state);
  const bench::Costs costs(worker.pid());
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    const auto result = co_await worker.call<drover::Shared<std::string>>("share", size);
    const auto taken = Clock::now() - begin;
    if (result.size() != size) throw std::runtime_error("the worker sent another size");
    samples.add(*state, taken, gibibytes_per_second(size, taken));
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
  co_await worker.stop();
}

void add_shared() {
  constexpr auto placement = Placement::one_core;
  for (const auto& [label, size] : {std::pair{"256KiB", std::size_t{256} << 10},
                                    {"1MiB", std::size_t{1} << 20},
                                    {"64MiB", std::size_t{64} << 20}}) {
    const std::string name = std::string("T-24/") + label + "/";
    const double a_second = 2500.0 * (1 << 20) / static_cast<double>(size);
    bench::add(name + "raw", a_second, send_raw, placement, size, true, false);
    bench::add_coroutine(name + "drover", a_second, placement, send_shared, placement, size, Memory::used_again);
    bench::add_coroutine(name + "fresh", a_second / 4, placement, send_shared, placement, size, Memory::fresh);
    bench::add_coroutine(name + "result", a_second / 4, placement, receive_shared, placement, size);
  }
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("size", [](std::string_view payload) { return std::uint64_t{payload.size()}; });
  std::string payload;
  routines.add("shared_size", [](drover::Shared<std::string> shared) { return std::uint64_t{shared.view().size()}; })
      .add("share", [&](std::size_t size) {
        if (payload.size() != size) payload.assign(size, 'x');
        return drover::Shared<std::string>::copy_of(payload);
      });
  if (bench::in_worker()) return drover::serve(routines);

  constexpr std::size_t mebi = std::size_t{1} << 20;
  for (const std::size_t size : {std::size_t{1}, std::size_t{64}}) {
    for (const auto placement : {Placement::one_core, Placement::two_cores}) {
      const std::string name =
          "T-9/" + std::to_string(size) + "MiB/" + (placement == Placement::one_core ? "1c/" : "2c/");
      const double a_second = 2500.0 / static_cast<double>(size);
      bench::add(name + "raw", a_second, send_raw, placement, size * mebi, false, false);
      bench::add(name + "raw-fresh", a_second, send_raw, placement, size * mebi, true, true);
      bench::add(name + "raw-wide", a_second, send_raw, placement, size * mebi, true, false);
      bench::add_coroutine(name + "drover", a_second, placement, send_drover, placement, size * mebi, Passed::moved);
      bench::add_coroutine(name + "copied", a_second, placement, send_drover, placement, size * mebi, Passed::copied);
      bench::add_coroutine(name + "borrowed", a_second, placement, send_drover, placement, size * mebi,
                           Passed::borrowed);
    }
  }
  add_shared();
  return bench::run(argc, argv);
}
