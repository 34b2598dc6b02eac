#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <list>
#include <memory>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

/// One connection. Its coroutine holds it.
struct Client : std::enable_shared_from_this<Client> {
  explicit Client(asio::ip::tcp::socket connected) : socket(std::move(connected)), timer(socket.get_executor()) {}

  /// Closes the connection unless this is called again, or allow_any_time(), within that time.
  void allow(drover::Duration time) {
    timer.expires_after(time);
    timer.async_wait([weak = weak_from_this()](std::error_code ec) {
      const auto client = weak.lock();
      if (ec || !client || client->timer.expiry() > drover::Clock::now()) return;
      client->socket.close(ec);
    });
  }
  void allow_any_time() { timer.expires_at(asio::steady_timer::time_point::max()); }

  asio::ip::tcp::socket socket;
  asio::steady_timer timer;
  asio::cancellation_signal cancel;
  bool busy = false;  ///< has a request to answer
};

/// All connections, each with a coroutine. A coroutine that is not awaited by another one has to end before what it
/// refers to: finish() waits for that.
class Clients {
 public:
  explicit Clients(const asio::any_io_executor& executor)
      : executor_(executor), change_(executor, asio::steady_timer::time_point::max()) {}

  /// Serves the client by the coroutine `serve(client)`.
  template <class Serve>
  void add(asio::ip::tcp::socket socket, Serve& serve) {
    const auto client = std::make_shared<Client>(std::move(socket));
    clients_.push_back(client);
    const auto ended = [this, client](std::exception_ptr) {
      clients_.remove(client);
      change_.cancel();
    };
    asio::co_spawn(executor_, serve(client), asio::bind_cancellation_slot(client->cancel.slot(), ended));
  }

  bool finishing() const { return finishing_; }

  /// Waits until there are fewer clients than that.
  asio::awaitable<void> wait_for_fewer_than(std::size_t most) {
    while (clients_.size() >= most) {
      std::error_code woken;
      co_await change_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
    }
  }

  /// Ends idle connections at once and busy ones after their answer. Those that still exist after `grace`, or when this
  /// is cancelled, are cancelled.
  asio::awaitable<void> finish(drover::Duration grace) {
    co_await asio::this_coro::throw_if_cancelled(false);
    finishing_ = true;
    for (const auto& client : std::list(clients_)) {
      std::error_code ec;
      if (!client->busy && client->socket.available(ec) == 0) client->cancel.emit(asio::cancellation_type::terminal);
    }
    std::error_code woken;
    const auto until = drover::Clock::now() + grace;
    for (bool cancelled = false; !clients_.empty() && !cancelled && drover::Clock::now() < until;) {
      change_.expires_at(until);
      co_await change_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
      const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
      cancelled = state.cancelled() != asio::cancellation_type::none;
    }
    for (const auto& client : std::list(clients_)) client->cancel.emit(asio::cancellation_type::terminal);
    change_.expires_at(asio::steady_timer::time_point::max());
    while (!clients_.empty()) co_await change_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }

 private:
  asio::any_io_executor executor_;
  asio::steady_timer change_;
  std::list<std::shared_ptr<Client>> clients_;
  bool finishing_ = false;
};
