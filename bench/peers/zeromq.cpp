// ZeroMQ: a DEALER at each end of ipc://, which is a Unix socket. DEALERs add no envelope, the least work per message.
#include <cstring>
#include <zmq.hpp>

#include "rpc.hpp"

namespace {

std::string address(const std::string& path) { return "ipc://" + path; }

/// The context's I/O thread inherits the core of the thread that creates the context.
struct Socket {
  Socket() : context(1), dealer(context, zmq::socket_type::dealer) {
    dealer.set(zmq::sockopt::linger, 0);
    dealer.set(zmq::sockopt::sndhwm, 0);
    dealer.set(zmq::sockopt::rcvhwm, 0);
  }

  zmq::context_t context;
  zmq::socket_t dealer;
};

/// Sends small messages back. Replies to large ones with their size.
void serve(const std::string&, const std::string& path) {
  Socket socket;
  socket.dealer.bind(address(path));
  peers::report_listening();
  for (zmq::message_t message;;) {
    if (!socket.dealer.recv(message)) continue;
    if (message.size() > 4096) {
      const std::uint64_t size = message.size();
      message.rebuild(&size, sizeof size);
    }
    socket.dealer.send(message, zmq::send_flags::none);
  }
}

struct Connected : Socket {
  explicit Connected(const std::string& path) { dealer.connect(address(path)); }

  void send_small() { dealer.send(zmq::const_buffer(payload, sizeof payload), zmq::send_flags::none); }
  void receive() {
    if (!dealer.recv(message)) throw std::runtime_error("nothing was received");
  }

  char payload[peers::small_payload]{};
  zmq::message_t message;
};

peers::Result latency(const std::string& path, double seconds) {
  Connected client(path);
  peers::Latency measured(seconds);
  do {
    client.send_small();
    client.receive();
  } while (measured.next());
  return measured.result();
}

peers::Result rate(const std::string& path, double seconds) {
  Connected client(path);
  peers::Rate measured(seconds);
  for (std::size_t i = 0; i < peers::in_flight; ++i) client.send_small();
  for (;;) {
    client.receive();
    if (!measured.next()) return measured.result();
    client.send_small();
  }
}

peers::Result transfer(const std::string& path, double seconds, std::size_t bytes) {
  Connected client(path);
  std::vector<char> payload(bytes, 'x');
  return peers::throughput(seconds, bytes, [&] {
    zmq::message_t message(payload.data(), payload.size(), [](void*, void*) {});  // sent without a copy
    client.dealer.send(message, zmq::send_flags::none);
    client.receive();
    std::uint64_t size = 0;
    std::memcpy(&size, client.message.data(), std::min(client.message.size(), sizeof size));
    if (size != bytes) throw std::runtime_error("the server received another size");
  });
}

}  // namespace

int main(int argc, char** argv) {
  const auto [major, minor, patch] = zmq::version();
  const std::string note =
      "DEALER to DEALER over ipc, one I/O thread each, large messages not copied by the sender, one at a "
      "time; libzmq " +
      std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
  std::vector<peers::Figure> figures;
  peers::add_rpc(figures, "zeromq", note, {latency, rate, transfer});
  return peers::run_main(argc, argv, figures, {{"serve", peers::serving(serve)}});
}
