#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <drover/drover.hpp>

#include "clients.hpp"
#include "feed.hpp"
#include "request.hpp"
#include "response.hpp"
#include "routes.hpp"

/// One client's requests, one after another. What the client sends meanwhile waits in the socket.
class Connection {
 public:
  struct Server {
    drover::WorkerPool& pool;
    Feed& feed;
    Clients& clients;
    drover::CallOptions call;
    drover::Duration client_timeout;  ///< to send the next request, or to take an answer
  };

  Connection(Server& server, std::shared_ptr<Client> client) : server_(server), client_(std::move(client)) {}

  /// Ends when the client has left, or the connection must not be used any more.
  asio::awaitable<void> serve() {
    for (bool goes_on = true; goes_on;) {
      client_->busy = !unread_.empty();
      if (server_.clients.finishing() && !client_->busy) break;
      const bool received = co_await receive();
      if (!received) co_return;
      if (reader_.refused() != 0) {
        const Response response = refusal(reader_.refused());
        co_await send(response, true, false);
        break;
      }
      Request request = reader_.take();
      if (request.path == "/events" && request.method == HTTP_GET && !server_.clients.finishing()) {
        co_await send_events();
        co_return;
      }
      goes_on = co_await serve_request(std::move(request));
    }
    co_await close();
  }

 private:
  static constexpr std::chrono::seconds close_time{2};

  /// Receives a request, or as much as is enough to refuse it. False if the client has left.
  asio::awaitable<bool> receive() {
    client_->allow(server_.client_timeout);
    while (!reader_.complete() && reader_.refused() == 0) {
      std::error_code ec;
      if (unread_.empty()) {
        const std::size_t size = co_await client_->socket.async_read_some(
            asio::buffer(received_), asio::redirect_error(asio::use_awaitable, ec));
        if (ec) co_return false;
        unread_ = std::string_view(received_.data(), size);
      }
      if (!client_->busy) client_->allow(server_.client_timeout);
      client_->busy = true;
      unread_.remove_prefix(reader_.read(unread_));
      if (!reader_.take_expectation()) continue;
      co_await asio::async_write(client_->socket, asio::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")),
                                 asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return false;
    }
    client_->allow_any_time();
    co_return true;
  }

  /// Returns whether another request may follow.
  asio::awaitable<bool> serve_request(Request request) {
    const auto begin = drover::Clock::now();
    const bool is_work = request.path == "/hash" || request.path == "/thumbnail";
    const bool only_head = request.method == HTTP_HEAD;
    bool keep_alive = request.keep_alive;
    const Response response = co_await answer(server_.pool, server_.call, std::move(request));
    if (is_work) server_.feed.answered(drover::Clock::now() - begin, response.status >= 500);
    keep_alive = keep_alive && !server_.clients.finishing();
    co_await send(response, !only_head, keep_alive);
    co_return keep_alive;
  }

  asio::awaitable<void> send(const Response& response, bool with_body, bool keep_alive) {
    client_->allow(server_.client_timeout);
    const std::string head = head_of(response, keep_alive);
    const std::string_view body = with_body ? std::string_view(response.body) : std::string_view();
    const std::array<asio::const_buffer, 2> both{asio::buffer(head), asio::buffer(body)};
    co_await asio::async_write(client_->socket, both, asio::use_awaitable);
  }

  asio::awaitable<void> send_events() {
    client_->busy = false;
    Response response;
    response.type = "text/event-stream";
    response.fields = "Cache-Control: no-store\r\n";
    std::string text = head_of(response, false, false) + "retry: 1000\n\n";
    const std::shared_ptr<Feed::Subscriber> subscriber = server_.feed.subscribe();
    while (!text.empty()) {
      client_->allow(server_.client_timeout);
      co_await asio::async_write(client_->socket, asio::buffer(text), asio::use_awaitable);
      client_->allow_any_time();
      text = co_await subscriber->next();
    }
  }

  /// A client that is still sending would not see the answer if the socket were closed now.
  asio::awaitable<void> close() {
    std::error_code ec;
    client_->allow(close_time);
    client_->socket.shutdown(asio::ip::tcp::socket::shutdown_send, ec);
    for (std::size_t discarded = 0; !ec && discarded < RequestReader::max_body;)
      discarded += co_await client_->socket.async_read_some(asio::buffer(received_),
                                                            asio::redirect_error(asio::use_awaitable, ec));
  }

  Server& server_;
  const std::shared_ptr<Client> client_;
  RequestReader reader_;
  std::array<char, 16384> received_;
  std::string_view unread_;  // of what was received
};

inline asio::awaitable<void> serve_client(Connection::Server& server, std::shared_ptr<Client> client) {
  Connection connection(server, std::move(client));
  co_await connection.serve();
}
