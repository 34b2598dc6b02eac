#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <sys/socket.h>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/os/credentials.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/worker/socket_watch.hpp>
#include <drover/wire/protocol.hpp>

/// A dispatcher with workers that are only the other ends of sockets, so that every order of events can be made.
namespace support {

using namespace std::chrono_literals;
using drover::CallOptions;
using drover::Errc;
using drover::detail::Call;
using drover::detail::CallEvent;
using drover::detail::CallQueue;
using drover::detail::DataLink;
using drover::detail::Dispatcher;
using drover::detail::FrameHeader;
using drover::detail::FrameReader;
using drover::detail::FrameType;
using drover::detail::Outcome;

/// A CALL that a FakeWorker has received.
struct Received {
  FrameHeader header;
  int argument = 0;
  std::int64_t deadline = drover::detail::never;
  std::string context{};
};

/// A worker's data socket with the dispatcher at one end and the test at the other.
class FakeWorker final : drover::detail::LinkOwner, DataLink::Listener {
 public:
  FakeWorker(asio::io_context& context, std::shared_ptr<Dispatcher> dispatcher, std::size_t capacity = 1)
      : dispatcher_(std::move(dispatcher)), link(*this, *this, capacity) {
    auto [ours, theirs] = drover::detail::socket_pair();
    theirs_ = std::move(theirs);
    const auto held = lock();
    link.open(std::move(ours), 1 << 20);
    link.attach(context.get_executor());
    link.take_calls(true);
    dispatcher_->add_link(link);
    dispatcher_->send_queued();
  }
  ~FakeWorker() {
    const auto held = lock();
    dispatcher_->remove_link(link);
    link.close(false);
  }

  /// The next CALL, if one has been sent.
  std::optional<Received> next() {
    for (;;) {
      if (const auto frame = reader_.next()) {
        EXPECT_EQ(frame->header.type, FrameType::call);
        drover::Decoder body(frame->body);
        drover::detail::CallFacts facts;
        if ((frame->header.status & drover::detail::facts_flag) != 0) facts = drover::detail::take_facts(body);
        EXPECT_EQ(body.get<std::string>(), "f");
        return Received{frame->header, body.get<int>(), facts.deadline, std::string(facts.context)};
      }
      const auto room = reader_.prepare();
      const auto count = ::recv(theirs_.get(), room.data(), room.size(), MSG_DONTWAIT);
      if (count <= 0) return std::nullopt;
      reader_.commit(static_cast<std::size_t>(count));
    }
  }

  /// The next frame of any type, with its body, if one has been sent.
  std::optional<std::pair<FrameHeader, std::vector<std::byte>>> next_frame() {
    for (;;) {
      if (const auto frame = reader_.next())
        return std::pair(frame->header, std::vector<std::byte>(frame->body.begin(), frame->body.end()));
      const auto room = reader_.prepare();
      const auto count = ::recv(theirs_.get(), room.data(), room.size(), MSG_DONTWAIT);
      if (count <= 0) return std::nullopt;
      reader_.commit(static_cast<std::size_t>(count));
    }
  }
  /// Any frame, which the dispatcher reads at once. False if it did not believe it, see `failure`.
  bool send(FrameHeader header, std::span<const std::byte> body = {}) {
    drover::detail::FrameWriter writer;
    writer.queue(header, body);
    const auto bytes = writer.contiguous();
    for (std::size_t sent = 0; sent < bytes.size();) {
      const auto count = ::send(theirs_.get(), bytes.data() + sent, bytes.size() - sent, MSG_DONTWAIT);
      if (count > 0) sent += static_cast<std::size_t>(count);
      read();
    }
    return !failure;
  }
  /// What has been sent.
  void read() {
    {
      const auto held = lock();
      read_results(16);
    }
    dispatcher_->run_completions(false);
  }

  /// RESULT, which the dispatcher reads at once.
  void answer(const Received& call, bool quick = true) {
    drover::detail::ByteBuffer body;
    drover::Encoder(body).put(call.argument * 10);
    FrameHeader header{.size = static_cast<std::uint32_t>(body.size()),
                       .type = FrameType::result,
                       .slot = call.header.slot,
                       .id = call.header.id};
    if (quick) header.status = drover::detail::quick_flag;
    ASSERT_EQ(::send(theirs_.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    ASSERT_EQ(::send(theirs_.get(), body.data(), body.size(), 0), static_cast<ssize_t>(body.size()));
    {
      const auto held = lock();
      read_results(1);
    }
    dispatcher_->run_completions(false);
  }
  /// Its process has exited. `read_all`: no result of it is lost.
  void die(bool read_all = true) {
    CallQueue ended;
    {
      const auto held = lock();
      dispatcher_->remove_link(link);
      link.take_calls(false);
      const auto end = [&](Call& call) {
        const auto owned = call.shared_from_this();
        if (dispatcher_->end_with_worker(owned)) ended.push(owned);
      };
      if (Call* const ahead = link.ahead()) {
        const auto call = ahead->shared_from_this();
        if (dispatcher_->end_ahead(*ahead, read_all)) ended.push(call);
      }
      link.slots().for_each([&](const std::shared_ptr<Call>& call) { end(*call); });
    }
    dispatcher_->run_completions(false);
    complete_all_with_error(
        std::move(ended), [] { return std::make_exception_ptr(drover::Error(Errc::worker_exited, "it has exited")); });
  }
  bool give_back(std::uint64_t call) {
    bool accepted = false;
    {
      const auto held = lock();
      accepted = dispatcher_->take_back_recalled(link, call);
    }
    dispatcher_->run_completions(false);
    return accepted;
  }

  std::vector<std::uint64_t> recalled, cancelled;
  std::vector<drover::CancelReason> reasons;  // of `cancelled`
  int kills = 0;
  bool expects_failure = false;
  std::exception_ptr failure;  // why the dispatcher does not believe it any more

 private:
  std::unique_lock<std::mutex> lock() const override { return dispatcher_->lock(); }
  std::unique_lock<std::mutex> lock_context() const override { return dispatcher_->registry()->lock(); }
  std::shared_ptr<void> keep_alive() override { return nullptr; }
  bool foreign() const noexcept override { return false; }
  void socket_failed(const char* what, std::error_code error) override { ADD_FAILURE() << what << error; }
  void peer_failed(std::exception_ptr why) override {
    failure = std::move(why);
    EXPECT_TRUE(expects_failure);
  }
  void run_completions(std::unique_lock<std::mutex> held) override {
    dispatcher_->run_completions(true, std::move(held));
  }
  std::size_t slot() const noexcept override { return 0; }
  std::string describe() const override { return "worker 'fake'"; }
  void send_cancel(std::uint64_t call, drover::CancelReason reason) override {
    cancelled.push_back(call);
    reasons.push_back(reason);
  }
  void send_recall(std::uint64_t call) override { recalled.push_back(call); }
  void kill_worker(const Call&) override { ++kills; }
  void read_results(int times) override {
    const drover::detail::ResultBatch batch(*dispatcher_);
    link.read(times);
  }
  void result(const std::shared_ptr<Call>& call, Outcome outcome) override {
    dispatcher_->record_result(call, std::move(outcome), link.reader());
  }
  void begun(Call& call) override { dispatcher_->call_began(call); }
  void data_closed() override {}
  void data_broken() override {}

  const std::shared_ptr<Dispatcher> dispatcher_;
  drover::UniqueFd theirs_;
  FrameReader reader_{1 << 20};

 public:
  DataLink link;
};

class FakeWorkers : public testing::Test {
 protected:
  struct Caller {
    std::optional<int> value;
    std::optional<Errc> error;
    std::string text;
    asio::cancellation_signal cancellation;

    bool waits() const { return !value && !error && text.empty(); }
  };

  /// Calls f(argument). The call begins before this returns.
  Caller& call(int argument, CallOptions options = {}, std::string rest = {}) {
    callers_.push_back(std::make_unique<Caller>());
    Caller& caller = *callers_.back();
    const auto ended = [&caller](std::exception_ptr failure, int value) {
      if (!failure) {
        caller.value = value;
        return;
      }
      try {
        std::rethrow_exception(failure);
      } catch (const drover::Error& error) {
        caller.error = static_cast<Errc>(error.code().value());
        caller.text = error.what();
      } catch (const std::exception& error) {
        caller.text = error.what();
      }
    };
    asio::co_spawn(context_, drover::detail::begin_call<int>(dispatcher_, options, "f", argument, std::move(rest)),
                   asio::bind_cancellation_slot(caller.cancellation.slot(), ended));
    run();
    return caller;
  }
  /// A call with arguments that are too large to be sent twice.
  Caller& call_large(int argument) { return call(argument, {}, std::string(100'000, 'x')); }
  /// The result of a call that the worker answers.
  std::optional<int> call_and_answer(FakeWorker& worker, int argument) {
    Caller& caller = call(argument);
    if (const auto sent = worker.next()) worker.answer(*sent);
    run();
    return caller.value;
  }
  /// Runs what is ready now.
  void run() {
    context_.restart();
    context_.poll();
  }
  /// Runs until it holds.
  template <class Condition>
  bool run_until(Condition condition) {
    for (const auto bound = drover::Clock::now() + 10s; !condition();) {
      if (drover::Clock::now() > bound) return false;
      context_.restart();
      context_.run_one_for(10ms);
    }
    return true;
  }
  /// A worker that has answered a call within a few microseconds, and has none now.
  std::unique_ptr<FakeWorker> quick_worker() {
    auto worker = std::make_unique<FakeWorker>(context_, dispatcher_);
    call(0);
    const auto first = worker->next();
    EXPECT_TRUE(first);
    if (first) worker->answer(*first);
    run();
    return worker;
  }
  static bool is_ahead(const std::optional<Received>& call) {
    return call && (call->header.status & drover::detail::ahead_flag) != 0;
  }
  std::size_t queued() {
    const auto held = dispatcher_->lock();
    return dispatcher_->queued();
  }
  std::size_t in_flight() {
    const auto held = dispatcher_->lock();
    return dispatcher_->in_flight();
  }

  asio::io_context context_{1};
  std::shared_ptr<Dispatcher> dispatcher_ =
      Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), std::nullopt);
  std::vector<std::unique_ptr<Caller>> callers_;

  void TearDown() override {
    run();
    for (const auto& caller : callers_) EXPECT_FALSE(caller->waits());
    dispatcher_->close();
  }
};

}  // namespace support
