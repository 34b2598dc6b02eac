// T-13, the baseline: coroutines and sockets, with only those headers of Asio that they need.
#include <string>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/read.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

namespace {

asio::awaitable<void> call(asio::local::stream_protocol::socket socket, std::string text) {
  co_await asio::async_write(socket, asio::buffer(text), asio::use_awaitable);
  co_await asio::async_read(socket, asio::buffer(text), asio::use_awaitable);
}

}  // namespace

int main() {
  asio::io_context context;
  asio::co_spawn(context, call(asio::local::stream_protocol::socket(context), "hello"), asio::detached);
  context.run();
}
