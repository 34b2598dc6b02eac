// An HTTP server whose requests run in workers. An image that crashes the decoder costs one request, and nothing else:
// its client gets "502 Bad Gateway". The page at / shows what happens. It has no access control: put it behind a proxy
// that has.
//
//     server --port 8080 &
//     curl --data-binary @photo.jpg 'http://127.0.0.1:8080/thumbnail?size=300' >small.png
//     curl --data-binary @photo.jpg http://127.0.0.1:8080/hash
//     kill -HUP %1     # new workers, one after another, also of a new program at the same path; no request fails
//     kill %1          # no new connections; ends when the last request is answered
#include <chrono>
#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/redirect_error.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

#include "server/clients.hpp"
#include "server/command_line.hpp"
#include "server/connection.hpp"
#include "server/feed.hpp"
#include "server/routes.hpp"
#include "server/routines.hpp"

namespace {

using namespace std::chrono_literals;
using asio::ip::tcp;

constexpr drover::Duration grace = 10s;   // for requests when the server ends
constexpr std::size_t max_clients = 256;  // each may have a request of RequestReader::max_body in memory

drover::Duration seconds(double count) {
  return std::chrono::duration_cast<drover::Duration>(std::chrono::duration<double>(count));
}

drover::PoolOptions pool_options(const CommandLine& command_line, std::shared_ptr<Feed> feed) {
  drover::PoolOptions options;
  options.size = command_line.workers;
  options.max_queued = 128;
  options.shutdown_grace = grace;
  options.worker.stop_margin = 1s;  // these routines can't be cancelled
  options.worker.term_grace = 1s;
  options.worker.name = "worker";
  // By its path and not Command::self(), so that a reload starts the program that is there by then.
  options.worker.command = drover::Command{.program = std::filesystem::canonical("/proc/self/exe").string()};
  options.worker.extra = {{"memory", std::to_string(command_line.memory << 20)}};
  // A service manager may signal the whole control group. The workers are stopped when the requests are answered.
  options.worker.on_terminate = drover::OnTerminate::leave_to_parent;
  options.worker.on_event = [feed](const drover::Event& event) {
    std::clog << event.to_string() << '\n';
    feed->add(event);
  };
  return options;
}

asio::awaitable<void> accept_clients(tcp::acceptor& acceptor, Connection::Server& server) {
  asio::steady_timer pause(co_await asio::this_coro::executor);
  const auto serve = [&server](std::shared_ptr<Client> client) { return serve_client(server, std::move(client)); };
  for (;;) {
    co_await server.clients.wait_for_fewer_than(max_clients);
    std::error_code ec;
    tcp::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, ec));
    if (ec) {  // there are too many descriptors, say
      pause.expires_after(100ms);
      co_await pause.async_wait(asio::use_awaitable);
      continue;
    }
    socket.set_option(tcp::no_delay(true), ec);
    server.clients.add(std::move(socket), serve);
  }
}

asio::awaitable<void> reload_on_hangup(asio::signal_set& hangups, drover::WorkerPool& pool) {
  for (;;) {
    co_await hangups.async_wait(asio::use_awaitable);
    try {
      const drover::ReloadReport report = co_await pool.reload();
      std::clog << describe(report);
    } catch (const drover::Error& error) {  // the workers that are there go on
      std::clog << "reload: " << error.what() << '\n';
    }
  }
}

/// Until SIGTERM or SIGINT cancels it. Then connections finish what they have begun.
asio::awaitable<void> serve_clients(tcp::acceptor& acceptor, asio::signal_set& hangups, Feed& feed,
                                    drover::CallOptions call, drover::Duration client_timeout,
                                    drover::WorkerPool& pool) {
  using namespace asio::experimental::awaitable_operators;
  Clients clients(co_await asio::this_coro::executor);
  Connection::Server server{pool, feed, clients, call, client_timeout};
  std::cout << "listening on http://" << acceptor.local_endpoint() << std::endl;
  std::exception_ptr failure;
  try {
    asio::awaitable<void> accepting = accept_clients(acceptor, server);
    asio::awaitable<void> reloading = reload_on_hangup(hangups, pool);
    asio::awaitable<void> reporting = feed.report(pool);
    auto all = std::move(accepting) && std::move(reloading) && std::move(reporting);
    co_await std::move(all);
  } catch (...) {
    failure = std::current_exception();
  }
  const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
  const bool asked_to_end = state.cancelled() != asio::cancellation_type::none;
  acceptor.close();
  co_await asio::this_coro::reset_cancellation_state();  // a second signal cancels finish()
  co_await clients.finish(grace);
  if (failure && !asked_to_end) std::rethrow_exception(failure);
}

asio::awaitable<void> serve_http(CommandLine command_line) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  asio::signal_set hangups(executor, SIGHUP);
  tcp::acceptor acceptor(executor, command_line.endpoint());
  const auto feed = std::make_shared<Feed>(executor);

  drover::CallOptions call;
  call.deadline = seconds(command_line.deadline);
  call.kill_after = 100ms;  // decoders can't be cancelled
  const drover::Duration client_timeout = seconds(command_line.client_timeout);
  const auto body = [&acceptor, &hangups, feed, call, client_timeout](drover::WorkerPool& pool) {
    return serve_clients(acceptor, hangups, *feed, call, client_timeout, pool);
  };
  drover::PoolOptions options = pool_options(command_line, feed);
  co_await drover::with_pool(std::move(options), body);
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  add_routines(routines);
  if (drover::in_worker()) return drover::serve(routines);

  const CommandLine command_line = parse_command_line(argc, argv);
  std::signal(SIGHUP, SIG_IGN);  // run_main() leaves a signal alone that is ignored; serve_http() handles it
  return drover::run_main(serve_http(command_line));
}
