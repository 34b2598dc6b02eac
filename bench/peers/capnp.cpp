// Cap'n Proto RPC: its event loop at both ends of a Unix socket.
#include <capnp/ez-rpc.h>
#include <capnp/message.h>
#include <echo.capnp.h>
#include <limits>

#include "rpc.hpp"

namespace {

using peers::schema::Echo;

std::string address(const std::string& path) { return "unix:" + path; }

/// Lifts the default limit of 64 MiB for a message.
capnp::ReaderOptions options() {
  capnp::ReaderOptions unbounded;
  unbounded.traversalLimitInWords = std::numeric_limits<std::uint64_t>::max();
  return unbounded;
}

class EchoServer final : public Echo::Server {
 public:
  kj::Promise<void> call(CallContext context) override {
    const auto data = context.getParams().getData();
    context.getResults(capnp::MessageSize{data.size() / sizeof(capnp::word) + 8, 0}).setData(data);
    return kj::READY_NOW;
  }
  kj::Promise<void> take(TakeContext context) override {
    context.getResults(capnp::MessageSize{8, 0}).setSize(context.getParams().getData().size());
    return kj::READY_NOW;
  }
};

void serve(const std::string&, const std::string& path) {
  capnp::EzRpcServer server(kj::heap<EchoServer>(), address(path), 0, options());
  server.getPort().wait(server.getWaitScope());  // returns once it listens
  peers::report_listening();
  kj::NEVER_DONE.wait(server.getWaitScope());
}

class Connected {
 public:
  explicit Connected(const std::string& path) : client_(address(path), 0, options()), echo_(client_.getMain<Echo>()) {}

  auto call() {
    auto request = echo_.callRequest(capnp::MessageSize{sizeof payload_ / sizeof(capnp::word) + 8, 0});
    request.setData(kj::arrayPtr(payload_, sizeof payload_));
    return request.send();
  }
  Echo::Client& echo() { return echo_; }
  kj::WaitScope& scope() { return client_.getWaitScope(); }

 private:
  capnp::EzRpcClient client_;
  Echo::Client echo_;
  kj::byte payload_[peers::small_payload]{};
};

peers::Result latency(const std::string& path, double seconds) {
  Connected client(path);
  peers::Latency measured(seconds);
  do client.call().wait(client.scope());
  while (measured.next());
  return measured.result();
}

/// Calls in flight. Each call that completes begins the next one.
class Calls : kj::TaskSet::ErrorHandler {
 public:
  Calls(Connected& client, peers::Rate& measured)
      : client_(client), measured_(measured), done_(kj::newPromiseAndFulfiller<void>()), tasks_(*this) {
    for (std::size_t i = 0; i < peers::in_flight; ++i) begin();
  }
  void wait() { done_.promise.wait(client_.scope()); }

 private:
  void begin() {
    tasks_.add(client_.call().then([this](auto&&) {
      if (measured_.next()) return begin();
      done_.fulfiller->fulfill();
    }));
  }
  void taskFailed(kj::Exception&& exception) override { done_.fulfiller->reject(kj::mv(exception)); }

  Connected& client_;
  peers::Rate& measured_;
  kj::PromiseFulfillerPair<void> done_;
  kj::TaskSet tasks_;
};

peers::Result rate(const std::string& path, double seconds) {
  Connected client(path);
  peers::Rate measured(seconds);
  Calls(client, measured).wait();
  return measured.result();
}

peers::Result transfer(const std::string& path, double seconds, std::size_t bytes) {
  Connected client(path);
  const std::vector<std::uint64_t> words(bytes / sizeof(std::uint64_t), 1);
  const capnp::Data::Reader data(reinterpret_cast<const kj::byte*>(words.data()), bytes);
  return peers::throughput(seconds, bytes, [&] {
    auto request = client.echo().takeRequest(capnp::MessageSize{8, 0});
    const Echo::TakeParams::Builder parameters = request;
    request.adoptData(
        capnp::Orphanage::getForMessageContaining(parameters).referenceExternalData(data));  // without a copy
    if (request.send().wait(client.scope()).getSize() != bytes)
      throw std::runtime_error("the server received another size");
  });
}

}  // namespace

int main(int argc, char** argv) {
  const auto part = [](int divisor) { return std::to_string(CAPNP_VERSION / divisor % 1000); };
  const std::string note =
      "EzRpc, one thread each; large payloads referenced and not copied by the sender, one at a time; "
      "Cap'n Proto " +
      part(1000000) + "." + part(1000) + "." + part(1);
  std::vector<peers::Figure> figures;
  peers::add_rpc(figures, "capnp", note, {latency, rate, transfer});
  return peers::run_main(argc, argv, figures, {{"serve", peers::serving(serve)}});
}
