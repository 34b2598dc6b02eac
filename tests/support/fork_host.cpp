// A program with a pool of the workers that its arguments name, made by a fork server. It says the ids of the server,
// of both workers and of a copy of itself, a line each, and goes on until it is killed.
#include <string>
#include <unistd.h>
#include <vector>

#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/worker_pool.hpp>
#include <drover/run.hpp>

#include "support/worker_routines.hpp"

namespace {

asio::awaitable<void> go(std::vector<std::string> command) {
  drover::PoolOptions options;
  options.size = 2;
  options.launch = drover::Launch::fork;
  options.worker.command.program = command.front();
  options.worker.command.args = std::vector<std::string>(command.begin() + 1, command.end());
  int ready = 0;
  options.worker.on_event = [&ready](const drover::Event& event) {
    if (event.kind != drover::Event::Kind::ready) return;
    support::say(std::to_string(event.pid));
    ++ready;
  };
  drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
  while (ready != 3) co_await asio::post(asio::use_awaitable);  // the server is one of them
  const pid_t copy = ::fork();
  if (copy == 0) {
    ::alarm(60);
    for (;;) ::pause();
  }
  support::say(std::to_string(copy));
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::minutes(1));
  co_await timer.async_wait(asio::use_awaitable);
}

}  // namespace

int main(int argc, char** argv) { return drover::run(go({argv + 1, argv + argc})), 0; }
