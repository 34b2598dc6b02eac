// Calls that are sent ahead to a worker that runs another one: Dispatcher and DataLink with workers that are only the
// other ends of sockets, so that every order of events can be made.
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <sys/socket.h>
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

namespace {

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

/// What a worker of one call at a time has received.
struct Received {
  FrameHeader header;
  int argument = 0;
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
        EXPECT_EQ(body.get<std::string>(), "f");
        return Received{frame->header, body.get<int>()};
      }
      const auto room = reader_.prepare();
      const auto count = ::recv(theirs_.get(), room.data(), room.size(), MSG_DONTWAIT);
      if (count <= 0) return std::nullopt;
      reader_.commit(static_cast<std::size_t>(count));
    }
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
  /// Its process has exited.
  void die() {
    CallQueue ended;
    {
      const auto held = lock();
      dispatcher_->remove_link(link);
      link.take_calls(false);
      const auto end = [&](Call& call) {
        if (dispatcher_->end_in_flight(call, CallEvent::worker_ended)) ended.push(call.shared_from_this());
      };
      if (Call* const ahead = link.ahead()) end(*ahead);
      link.slots().for_each([&](const std::shared_ptr<Call>& call) { end(*call); });
    }
    dispatcher_->run_completions(false);
    Dispatcher::complete_all_with_error(
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
  int kills = 0;

 private:
  std::unique_lock<std::mutex> lock() const override { return dispatcher_->lock(); }
  std::unique_lock<std::mutex> lock_context() const override { return dispatcher_->registry()->lock(); }
  std::shared_ptr<void> keep_alive() override { return nullptr; }
  bool foreign() const noexcept override { return false; }
  void socket_failed(const char* what, std::error_code error) override { ADD_FAILURE() << what << error; }
  void peer_failed(std::exception_ptr) override { ADD_FAILURE(); }
  void run_completions() override { dispatcher_->run_completions(true); }
  std::string describe() const override { return "worker 'fake'"; }
  void send_cancel(std::uint64_t call) override { cancelled.push_back(call); }
  void send_recall(std::uint64_t call) override { recalled.push_back(call); }
  void kill_worker() override { ++kills; }
  void read_results(int times) override {
    const Dispatcher::Batch batch(*dispatcher_);
    link.read(times);
  }
  void result(const std::shared_ptr<Call>& call, Outcome outcome) override {
    dispatcher_->record_result(call, std::move(outcome), link.reader());
  }
  void data_closed() override {}
  void data_broken() override {}

  const std::shared_ptr<Dispatcher> dispatcher_;
  drover::UniqueFd theirs_;
  FrameReader reader_{1 << 20};

 public:
  DataLink link;
};

class SendAhead : public testing::Test {
 protected:
  struct Caller {
    std::optional<int> value;
    std::optional<Errc> error;
    std::string text;
    asio::cancellation_signal cancellation;

    bool waits() const { return !value && !error && text.empty(); }
  };

  /// Calls f(argument). The call begins before this returns.
  Caller& call(int argument, CallOptions options = {}) {
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
    asio::co_spawn(context_, drover::detail::begin_call<int>(dispatcher_, options, "f", argument),
                   asio::bind_cancellation_slot(caller.cancellation.slot(), ended));
    run();
    return caller;
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
    return call && call->header.status == drover::detail::ahead_flag;
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

TEST_F(SendAhead, OneCallToAWorkerWhoseLastResultWasQuick) {
  FakeWorker worker(context_, dispatcher_);
  for (int i = 1; i <= 4; ++i) call(i);
  auto first = worker.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.status, 0);
  EXPECT_FALSE(worker.next()) << "nobody knows yet whether its calls are quick";
  worker.answer(*first, false);
  first = worker.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.status, 0);
  EXPECT_FALSE(worker.next()) << "its last call took long";
  worker.answer(*first);
  first = worker.next();
  const auto second = worker.next();
  ASSERT_TRUE(first && is_ahead(second));
  EXPECT_EQ(first->header.status, 0);
  EXPECT_EQ(first->argument, 3);
  EXPECT_EQ(second->argument, 4);
  EXPECT_EQ(in_flight(), 1u);
  EXPECT_EQ(queued(), 1u) << "what has not begun still waits";
  call(5);
  EXPECT_FALSE(worker.next()) << "one call ahead is enough";
  EXPECT_EQ(queued(), 2u);
  worker.answer(*first);
  const auto third = worker.next();
  ASSERT_TRUE(is_ahead(third));
  worker.answer(*second, false);
  worker.answer(*third);
  run();
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(callers_[i]->value, static_cast<int>(i + 1) * 10);
  EXPECT_EQ(in_flight(), 0u);
  EXPECT_EQ(queued(), 0u);
}

TEST_F(SendAhead, NothingToAWorkerOfSeveralCalls) {
  FakeWorker worker(context_, dispatcher_, 2);
  for (int i = 1; i <= 4; ++i) call(i);
  const auto first = worker.next(), second = worker.next();
  ASSERT_TRUE(first && second);
  worker.answer(*first);
  const auto third = worker.next();
  ASSERT_TRUE(third);
  EXPECT_FALSE(worker.next());
  worker.answer(*second);
  worker.answer(*third);
  worker.answer(*worker.next());
}

TEST_F(SendAhead, DeathOfTheWorkerEndsOnlyTheCallThatRan) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2), &third = call(3);
  EXPECT_TRUE(worker->next());
  EXPECT_TRUE(is_ahead(worker->next()));
  worker->die();
  run();
  EXPECT_EQ(first.error, Errc::worker_exited);
  EXPECT_TRUE(second.waits());
  EXPECT_TRUE(third.waits());
  EXPECT_EQ(queued(), 2u);
  FakeWorker replacement(context_, dispatcher_);
  const auto sent = replacement.next();
  ASSERT_TRUE(sent);
  EXPECT_EQ(sent->argument, 2) << "it keeps its place";
  EXPECT_EQ(sent->header.status, 0);
  replacement.answer(*sent);
  replacement.answer(*replacement.next());
  run();
  EXPECT_EQ(second.value, 20);
  EXPECT_EQ(third.value, 30);
}

TEST_F(SendAhead, DeathAfterTheTurnEndsTheCall) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  worker->answer(*worker->next());
  worker->die();
  run();
  EXPECT_EQ(first.value, 10);
  EXPECT_EQ(second.error, Errc::worker_exited) << "it may have begun";
}

TEST_F(SendAhead, DeathWhenCallsAreRefusedEndsBoth) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse([] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
  }
  worker->die();
  run();
  EXPECT_EQ(first.error, Errc::worker_exited);
  EXPECT_EQ(second.error, Errc::worker_exited);
  EXPECT_EQ(queued(), 0u);
}

TEST_F(SendAhead, LateCallIsRecalledAndGoesToAnotherWorker) {
  auto busy = quick_worker();
  Caller& slow = call(1);
  Caller& ahead = call(2);
  Caller& queued_call = call(3);
  const auto running = busy->next(), waiting = busy->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  FakeWorker other(context_, dispatcher_);
  const auto third = other.next();
  ASSERT_TRUE(third);
  EXPECT_EQ(third->argument, 3) << "what was sent ahead is the other worker's until that gives it back";
  ASSERT_TRUE(run_until([&] { return !busy->recalled.empty(); }));
  EXPECT_EQ(busy->recalled, std::vector{waiting->header.id});
  EXPECT_TRUE(ahead.waits());
  EXPECT_TRUE(busy->give_back(waiting->header.id));
  EXPECT_EQ(queued(), 1u);
  other.answer(*third);
  const auto again = other.next();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->argument, 2);
  other.answer(*again);
  run();
  EXPECT_EQ(ahead.value, 20);
  EXPECT_EQ(queued_call.value, 30);
  EXPECT_TRUE(slow.waits());
  call(4), call(5);  // one to the idle worker, and one ahead to it
  EXPECT_FALSE(busy->next()) << "nothing more is sent ahead to a worker that takes long";
  other.answer(*other.next());
  other.answer(*other.next());
  busy->answer(*running);
  run();
  EXPECT_EQ(slow.value, 10);
}

TEST_F(SendAhead, CallThatBeganAfterAllIsNotTakenBack) {
  auto busy = quick_worker();
  FakeWorker other(context_, dispatcher_);
  call(7);
  const auto held_up = other.next();
  Caller &first = call(1), &second = call(2);
  const auto running = busy->next(), waiting = busy->next();
  ASSERT_TRUE(held_up && running && is_ahead(waiting));
  ASSERT_TRUE(run_until([&] { return !busy->recalled.empty(); }));
  busy->answer(*running);  // the worker begins the next one before RECALL arrives
  busy->answer(*waiting);
  run();
  EXPECT_EQ(first.value, 10);
  EXPECT_EQ(second.value, 20);
  EXPECT_TRUE(busy->give_back(waiting->header.id)) << "too late, which is no error";
  EXPECT_FALSE(busy->give_back(waiting->header.id + 1)) << "never sent";
  other.answer(*held_up);
}

TEST_F(SendAhead, CallGivenBackAfterItsTurnGoesBackToTheQueue) {
  auto busy = quick_worker();
  FakeWorker other(context_, dispatcher_);
  call(7);
  const auto held_up = other.next();
  call(1);
  Caller& second = call(2);
  const auto running = busy->next(), waiting = busy->next();
  ASSERT_TRUE(held_up && running && is_ahead(waiting));
  EXPECT_FALSE(busy->give_back(waiting->header.id)) << "nobody has asked for it yet";
  ASSERT_TRUE(run_until([&] { return !busy->recalled.empty(); }));
  busy->answer(*running);
  EXPECT_EQ(in_flight(), 2u);
  EXPECT_TRUE(busy->give_back(waiting->header.id));
  const auto again = busy->next();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->argument, 2);
  EXPECT_GT(again->header.id, waiting->header.id);
  busy->answer(*again);
  run();
  EXPECT_EQ(second.value, 20);
  other.answer(*held_up);
}

TEST_F(SendAhead, NothingIsRecalledFromTheOnlyWorker) {
  auto worker = quick_worker();
  call(1), call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  context_.restart();
  context_.run_for(20ms);
  EXPECT_TRUE(worker->recalled.empty());
  worker->answer(*running);
  worker->answer(*waiting);
}

TEST_F(SendAhead, CancelledCallNeverBringsDeathOverTheOneBefore) {
  auto worker = quick_worker();
  Caller& first = call(1);
  Caller& second = call(2, {.kill_after = 5ms});
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  second.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_FALSE(second.waits());
  EXPECT_EQ(worker->cancelled, std::vector{waiting->header.id});
  context_.restart();
  context_.run_for(50ms);
  EXPECT_EQ(worker->kills, 0) << "the worker runs another call";
  worker->answer(*running);
  EXPECT_TRUE(run_until([&] { return worker->kills == 1; })) << "its turn has come, and it does not end";
  EXPECT_EQ(first.value, 10);
  worker->answer(*waiting);
}

TEST_F(SendAhead, DeadlinePassesAsInTheQueue) {
  auto worker = quick_worker();
  call(1);
  Caller& second = call(2, {.deadline = 5ms});
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  ASSERT_TRUE(run_until([&] { return !second.waits(); }));
  EXPECT_EQ(second.error, Errc::deadline_exceeded);
  EXPECT_NE(second.text.find("waited for a free worker"), std::string::npos) << second.text;
  worker->answer(*running);
  worker->answer(*waiting);
}

TEST_F(SendAhead, CountsAgainstTheLengthOfTheQueue) {
  dispatcher_->close();
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 1);
  auto worker = quick_worker();
  call(1);
  Caller &second = call(2), &third = call(3);
  EXPECT_EQ(third.error, Errc::overloaded);
  EXPECT_TRUE(second.waits());
  worker->answer(*worker->next());
  worker->answer(*worker->next());
  run();
  EXPECT_EQ(second.value, 20);

  dispatcher_->close();
  worker.reset();
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 0);
  worker = quick_worker();
  call(1);
  EXPECT_EQ(call(2).error, Errc::overloaded);
  worker->answer(*worker->next());
}

TEST_F(SendAhead, ResultOutOfOrderEndsItsOwnCall) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  worker->answer(*waiting);
  run();
  EXPECT_EQ(second.value, 20);
  EXPECT_TRUE(first.waits());
  call(3);
  worker->answer(*running);
  worker->answer(*worker->next());
}

TEST_F(SendAhead, DrainingWorkerReturnsIt) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  {
    const auto held = dispatcher_->lock();
    worker->link.take_calls(false);
    dispatcher_->take_back(worker->link, running->header.id);
  }
  EXPECT_TRUE(worker->give_back(waiting->header.id)) << "returned already";
  FakeWorker other(context_, dispatcher_);
  const auto sent = other.next();
  ASSERT_TRUE(sent);
  EXPECT_EQ(sent->argument, 2);
  other.answer(*sent);
  worker->answer(*running);
  run();
  EXPECT_EQ(first.value, 10);
  EXPECT_EQ(second.value, 20);
}

}  // namespace
