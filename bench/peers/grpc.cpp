// gRPC over a Unix socket, with generated code: the synchronous API, the callback API, and one long-lived stream.
// gRPC's performance guide recommends streams where calls follow each other.
#include <condition_variable>
#include <echo.grpc.pb.h>
#include <grpcpp/grpcpp.h>
#include <memory>
#include <optional>
#include <thread>

#include "rpc.hpp"

namespace {

using grpc::ServerContext;
using grpc::Status;
using peers::Bytes;
using peers::Echo;
using peers::Size;

constexpr const char* callback_peer = "grpc-callback";

std::string address(const std::string& path) { return "unix:" + path; }

void check(const Status& status) {
  if (!status.ok()) throw std::runtime_error("gRPC: " + status.error_message());
}
void check(bool ok) {
  if (!ok) throw std::runtime_error("gRPC: the stream ended");
}

// The server ----------------------------------------------------------------------------------------------------------

class SyncService final : public Echo::Service {
 public:
  Status Call(ServerContext*, const Bytes* request, Bytes* reply) override {
    reply->set_data(request->data());
    return Status::OK;
  }
  Status Take(ServerContext*, const Bytes* request, Size* reply) override {
    reply->set_size(request->data().size());
    return Status::OK;
  }
  Status CallStream(ServerContext*, grpc::ServerReaderWriter<Bytes, Bytes>* stream) override {
    for (Bytes message; stream->Read(&message);) stream->Write(message);
    return Status::OK;
  }
  Status TakeStream(ServerContext*, grpc::ServerReaderWriter<Size, Bytes>* stream) override {
    Size size;
    for (Bytes message; stream->Read(&message);) {
      size.set_size(message.data().size());
      stream->Write(size);
    }
    return Status::OK;
  }
};

class CallbackService final : public Echo::CallbackService {
 public:
  grpc::ServerUnaryReactor* Call(grpc::CallbackServerContext* context, const Bytes* request, Bytes* reply) override {
    reply->set_data(request->data());
    return finish(context);
  }
  grpc::ServerUnaryReactor* Take(grpc::CallbackServerContext* context, const Bytes* request, Size* reply) override {
    reply->set_size(request->data().size());
    return finish(context);
  }

 private:
  static grpc::ServerUnaryReactor* finish(grpc::CallbackServerContext* context) {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(Status::OK);
    return reactor;
  }
};

/// The largest frames that HTTP/2 allows. The default is 16 KiB.
constexpr int frame_size = 16777215;

void serve(const std::string& peer, const std::string& path) {
  SyncService sync;
  CallbackService callback;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address(path), grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, frame_size);
  if (peer == callback_peer)
    builder.RegisterService(&callback);
  else
    builder.RegisterService(&sync);
  const auto server = builder.BuildAndStart();
  if (!server) throw std::runtime_error("gRPC: the server did not start");
  peers::report_listening();
  server->Wait();
}

// The client ----------------------------------------------------------------------------------------------------------

std::unique_ptr<Echo::Stub> connect(const std::string& path) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, frame_size);
  const auto channel = grpc::CreateCustomChannel(address(path), grpc::InsecureChannelCredentials(), arguments);
  channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10));
  return Echo::NewStub(channel);
}

Bytes payload(std::size_t size) {
  Bytes message;
  message.set_data(std::string(size, 'x'));
  return message;
}

void call(Echo::Stub& stub, const Bytes& request, Bytes& reply) {
  grpc::ClientContext context;
  check(stub.Call(&context, request, &reply));
}

void check_size(const Size& reply, std::size_t bytes) {
  if (reply.size() != bytes) throw std::runtime_error("the server received another size");
}

peers::Result sync_latency(const std::string& path, double seconds) {
  const auto stub = connect(path);
  const Bytes request = payload(peers::small_payload);
  Bytes reply;
  peers::Latency measured(seconds);
  do call(*stub, request, reply);
  while (measured.next());
  return measured.result();
}

/// The synchronous API needs a thread for each call in flight.
peers::Result sync_rate(const std::string& path, double seconds) {
  const auto stub = connect(path);
  peers::Rate measured(seconds);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < peers::in_flight; ++i)
    threads.emplace_back([&] {
      const Bytes request = payload(peers::small_payload);
      Bytes reply;
      do call(*stub, request, reply);
      while (measured.next());
    });
  for (std::thread& thread : threads) thread.join();
  return measured.result();
}

peers::Result sync_transfer(const std::string& path, double seconds, std::size_t bytes) {
  const auto stub = connect(path);
  const Bytes request = payload(bytes);
  return peers::throughput(seconds, bytes, [&] {
    grpc::ClientContext context;
    Size reply;
    check(stub->Take(&context, request, &reply));
    check_size(reply, bytes);
  });
}

/// Calls in flight. The callback of each call begins the next one while again() returns true.
class Callbacks {
 public:
  template <class Again>
  Callbacks(Echo::Stub& stub, std::size_t count, Again again)
      : stub_(stub), again_(again), calls_(count), left_(count) {
    for (Call& one : calls_) begin(one);
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return left_ == 0; });
    check(failure_);
  }

 private:
  struct Call {
    std::optional<grpc::ClientContext> context;
    Bytes request = payload(peers::small_payload), reply;
  };

  void begin(Call& one) {
    one.context.emplace();
    stub_.async()->Call(&*one.context, &one.request, &one.reply, [this, &one](const Status& status) {
      if (status.ok() && again_()) return begin(one);
      const std::lock_guard lock(mutex_);
      if (!status.ok()) failure_ = status;
      if (--left_ == 0) ended_.notify_one();
    });
  }

  Echo::Stub& stub_;
  std::function<bool()> again_;
  std::vector<Call> calls_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::size_t left_;
  Status failure_;
};

peers::Result callback_latency(const std::string& path, double seconds) {
  const auto stub = connect(path);
  peers::Latency measured(seconds);
  Callbacks(*stub, 1, [&] { return measured.next(); });
  return measured.result();
}

peers::Result callback_rate(const std::string& path, double seconds) {
  const auto stub = connect(path);
  peers::Rate measured(seconds);
  Callbacks(*stub, peers::in_flight, [&] { return measured.next(); });
  return measured.result();
}

peers::Result callback_transfer(const std::string& path, double seconds, std::size_t bytes) {
  const auto stub = connect(path);
  const Bytes request = payload(bytes);
  return peers::throughput(seconds, bytes, [&] {
    grpc::ClientContext context;
    Size reply;
    std::mutex mutex;
    std::condition_variable ended;
    std::optional<Status> answer;
    stub->async()->Take(&context, &request, &reply, [&](const Status& status) {
      const std::lock_guard lock(mutex);
      answer = status;
      ended.notify_one();
    });
    std::unique_lock lock(mutex);
    ended.wait(lock, [&] { return answer.has_value(); });
    check(*answer);
    check_size(reply, bytes);
  });
}

peers::Result stream_latency(const std::string& path, double seconds) {
  const auto stub = connect(path);
  grpc::ClientContext context;
  const auto stream = stub->CallStream(&context);
  const Bytes request = payload(peers::small_payload);
  Bytes reply;
  peers::Latency measured(seconds);
  do {
    check(stream->Write(request));
    check(stream->Read(&reply));
  } while (measured.next());
  context.TryCancel();
  return measured.result();
}

peers::Result stream_rate(const std::string& path, double seconds) {
  const auto stub = connect(path);
  grpc::ClientContext context;
  const auto stream = stub->CallStream(&context);
  const Bytes request = payload(peers::small_payload);
  Bytes reply;
  for (std::size_t i = 0; i < peers::in_flight; ++i) check(stream->Write(request));
  peers::Rate measured(seconds);
  for (;;) {
    check(stream->Read(&reply));
    if (!measured.next()) break;
    check(stream->Write(request));
  }
  context.TryCancel();
  return measured.result();
}

peers::Result stream_transfer(const std::string& path, double seconds, std::size_t bytes) {
  const auto stub = connect(path);
  grpc::ClientContext context;
  const auto stream = stub->TakeStream(&context);
  const Bytes request = payload(bytes);
  Size reply;
  const auto result = peers::throughput(seconds, bytes, [&] {
    check(stream->Write(request));
    check(stream->Read(&reply));
    check_size(reply, bytes);
  });
  context.TryCancel();
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string note = ", generated protobuf code, a bytes field, frames of up to 16 MiB; gRPC " + grpc::Version();
  std::vector<peers::Figure> figures;
  peers::add_rpc(figures, "grpc-sync", "synchronous API, a thread for each call in flight" + note,
                 {sync_latency, sync_rate, sync_transfer});
  peers::add_rpc(figures, callback_peer, "callback API at both ends" + note,
                 {callback_latency, callback_rate, callback_transfer});
  peers::add_rpc(figures, "grpc-stream", "messages on one stream instead of calls, synchronous API" + note,
                 {stream_latency, stream_rate, stream_transfer});
  return peers::run_main(argc, argv, figures, {{"serve", peers::serving(serve)}});
}
