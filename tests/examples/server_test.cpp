#include <algorithm>
#include <csignal>
#include <regex>

#include "server_client.hpp"

namespace {

using namespace std::chrono_literals;

// 300 x 100 pixels, black and white.
constexpr unsigned char png[] = {137, 80,  78,  71,  13,  10,  26,  10,  0,   0,   0,   13,  73,  72,  68,  82,
                                 0,   0,   1,   44,  0,   0,   0,   100, 1,   0,   0,   0,   0,   20,  122, 48,
                                 109, 0,   0,   0,   38,  73,  68,  65,  84,  120, 218, 237, 202, 49,  1,   0,
                                 0,   12,  2,   32,  251, 71,  49,  165, 21,  246, 15,  110, 210, 147, 104, 154,
                                 166, 105, 154, 166, 105, 154, 166, 105, 218, 215, 54,  244, 211, 219, 248, 117,
                                 109, 42,  42,  0,   0,   0,   0,   73,  69,  78,  68,  174, 66,  96,  130};

std::string image() { return {std::begin(png), std::end(png)}; }

/// Width and height of a PNG.
std::pair<int, int> size_of(const std::string& bytes) {
  if (bytes.size() < 24 || bytes.substr(1, 3) != "PNG") return {0, 0};
  const auto number = [&](std::size_t at) {
    int value = 0;
    for (std::size_t i = at; i < at + 4; ++i) value = value * 256 + static_cast<unsigned char>(bytes[i]);
    return value;
  };
  return {number(16), number(20)};
}

// The second body is so large that curl waits for "100 Continue", here longer than it may take.
TEST_F(Server, HashesWhatIsPosted) {
  start();
  const Answer abc = hash_abc();
  EXPECT_EQ(abc.status, "200");
  EXPECT_EQ(abc.body, sha256_of_abc + std::string("\n"));
  const std::string large = write("large", std::string(3 << 20, 'x'));
  const Answer answer = curl("/hash", {"--expect100-timeout", "100", "--data-binary", "@" + large});
  EXPECT_EQ(answer.body.substr(0, 64), Program::run({"sha256sum", large}).out.substr(0, 64));
  const Answer chunked = curl("/hash", {"--header", "Transfer-Encoding: chunked", "--data-binary", "abc"});
  EXPECT_EQ(chunked.body, abc.body);
  end();
}

TEST_F(Server, MakesThumbnails) {
  start();
  const std::string file = "@" + write("image", image());
  const Answer small = curl("/thumbnail?size=60", {"--data-binary", file});
  EXPECT_EQ(small.status, "200");
  EXPECT_EQ(small.type, "image/png");
  EXPECT_EQ(size_of(small.body), std::pair(60, 20));
  EXPECT_EQ(size_of(curl("/thumbnail", {"--data-binary", file}).body), std::pair(200, 66));
  EXPECT_EQ(size_of(curl("/thumbnail?size=1000", {"--data-binary", file}).body), std::pair(300, 100));

  EXPECT_EQ(curl("/thumbnail?size=60", {"--data-binary", "no image"}).status, "422");
  const std::string damaged = "@" + write("damaged", image().substr(0, 60));
  EXPECT_EQ(curl("/thumbnail?size=60", {"--data-binary", damaged}).status, "422");
  for (const char* size : {"0", "1025", "many", "6x", "-1"})
    EXPECT_EQ(curl("/thumbnail?size=" + std::string(size), {"--data-binary", file}).status, "400") << size;
  end();
}

TEST_F(Server, RefusesBadRequests) {
  start();
  const std::pair<std::string, std::string> bad[] = {
      {"GET /nothing HTTP/1.1\r\nHost: test\r\n\r\n", "404"},
      {"GET /hash HTTP/1.1\r\nHost: test\r\n\r\n", "405"},
      {"HEAD /events HTTP/1.1\r\nHost: test\r\n\r\n", "405"},
      {"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n", "405"},
      {"nonsense\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\n\r\n", "400"},
      {"GET / HTTP/2.0\r\nHost: test\r\n\r\n", "505"},
      {"POST /hash HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
      {"POST /hash HTTP/1.1\r\nHost: test\r\nContent-Length: 8388609\r\n\r\n", "413"},
      {"POST /hash HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999999999999\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\nHost: test\r\nX: " + std::string(17000, 'x'), "431"},
      {"GET /" + std::string(17000, 'x'), "431"},
      {post("/reload", "", "Origin: http://evil.example\r\n"), "403"},
  };
  for (const auto& [request, status] : bad) {
    Socket socket(port_);
    EXPECT_TRUE(socket.send(request));
    EXPECT_TRUE(socket.read_to("\r\n\r\n")) << request.substr(0, 80);
    EXPECT_EQ(socket.text().substr(0, 13), "HTTP/1.1 " + status + ' ') << request.substr(0, 80);
  }
  end();
}

// The size of such a body is not known before.
TEST_F(Server, RefusesChunksWithoutEnd) {
  start();
  Socket socket(port_);
  EXPECT_TRUE(socket.send("POST /hash HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"));
  const std::string chunk = "100000\r\n" + std::string(1 << 20, 'x') + "\r\n";
  int sent = 0;
  while (sent < 100 && socket.send(chunk)) ++sent;
  EXPECT_LT(sent, 100);
  EXPECT_EQ(socket.read_all().substr(0, 13), "HTTP/1.1 413 ");
  EXPECT_EQ(hash_abc().status, "200");
  end();
}

TEST_F(Server, AnswersPipelinedRequestsInOrder) {
  start();
  Socket socket(port_);
  EXPECT_TRUE(socket.send(post("/hash", "abc") + "HEAD / HTTP/1.1\r\nEmpty:\r\nHost: test\r\n\r\n" +
                          "GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
  const std::string text = socket.read_all();
  const std::regex answers("HTTP/1.1 200 [^]*" + std::string(sha256_of_abc) +
                           "\nHTTP/1.1 200 [^]*Content-Length: [1-9][0-9]+\r\n\r\n" +
                           "HTTP/1.1 404 [^]*Connection: close\r\n\r\nNot Found\n");
  EXPECT_TRUE(std::regex_match(text, answers)) << text;
  end();
}

TEST_F(Server, ClosesConnectionsOfSlowClients) {
  start({"--client-timeout", "0.2"});
  for (const char* part : {"", "GET / HT", "POST /hash HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nab"}) {
    Socket socket(port_);
    EXPECT_TRUE(socket.send(part));
    EXPECT_EQ(socket.read_all(), "") << part;
  }
  EXPECT_EQ(hash_abc().status, "200");
  end();
}

// One of the two requests fails: the one whose worker is killed.
TEST_F(Server, ACrashCostsOneRequest) {
  start({"--deadline", "100"});
  signal_workers(SIGSTOP);
  Socket first(port_), second(port_);
  EXPECT_TRUE(first.send(post("/hash", "abc")));
  EXPECT_TRUE(becomes("drover_calls_in_flight", 1));
  EXPECT_TRUE(second.send(post("/hash", "abc")));
  EXPECT_TRUE(becomes("drover_calls_in_flight", 2));
  const std::vector<pid_t> both = workers();
  ASSERT_EQ(both.size(), 2U);
  ::kill(both[0], SIGKILL);
  EXPECT_TRUE(becomes("drover_worker_restarts_total", 1));
  ::kill(both[1], SIGCONT);
  EXPECT_TRUE(first.read_to("\r\n\r\n"));
  EXPECT_TRUE(second.read_to("\r\n\r\n"));
  const std::string statuses = first.text().substr(9, 3) + ' ' + second.text().substr(9, 3);
  EXPECT_TRUE(statuses == "200 502" || statuses == "502 200") << statuses;
  EXPECT_EQ(hash_abc().status, "200");
  EXPECT_TRUE(becomes("drover_workers_ready", 2));
  end();
}

// The decoder hangs, as far as the server can see. Its worker is killed and replaced.
TEST_F(Server, ADeadlineEndsARequest) {
  start({"--workers", "1", "--deadline", "0.3"});
  signal_workers(SIGSTOP);
  const Answer late = hash_abc();
  EXPECT_EQ(late.status, "504") << late.body;
  EXPECT_TRUE(Program::eventually(30s, [&] { return hash_abc().status == "200"; }));
  EXPECT_NE(curl("/metrics").body.find("cause=\"killed_for_call\"} 1"), std::string::npos);
  end();
}

TEST_F(Server, RefusesWhatItHasNoRoomFor) {
  start({"--workers", "1", "--deadline", "100"});
  signal_workers(SIGSTOP);
  std::vector<Socket> sockets;
  for (int i = 0; i < 129; ++i) {
    sockets.emplace_back(port_);
    EXPECT_TRUE(sockets.back().send(post("/hash", "abc")));
  }
  EXPECT_TRUE(becomes("drover_calls_queued", 128));
  const Answer refused = curl("/hash", {"--data-binary", "abc", "--include"});
  EXPECT_EQ(refused.status, "503");
  EXPECT_NE(refused.body.find("Retry-After: 1\r\n"), std::string::npos) << refused.body;
  signal_workers(SIGCONT);
  for (Socket& socket : sockets) EXPECT_TRUE(socket.read_to(sha256_of_abc)) << socket.text();
  end();
}

// Clients without pause notice neither of the reloads.
TEST_F(Server, NoRequestFailsWhileItReloads) {
  start();
  const std::vector<pid_t> before = workers();
  const std::string stop = (folder_ / "stop").string();
  Program load({"sh", "-c",
                "for i in 1 2 3 4; do (while [ ! -e \"$0\" ]; do curl --silent --output /dev/null --write-out "
                "'%{http_code}\\n' --data-binary abc \"$1\" || echo failed; done) & done; wait",
                stop, url("/hash")});
  load.wait_for("200\n");
  const Answer report = curl("/reload", {"--request", "POST"});
  EXPECT_EQ(report.status, "200");
  EXPECT_EQ(report.body.rfind("replaced 2 workers in ", 0), 0U) << report.body;
  const std::vector<pid_t> between = workers();
  ::kill(program_->pid(), SIGHUP);
  program_->wait_for("replaced 2 workers in ");
  const std::vector<pid_t> after = workers();
  std::ofstream(stop).close();
  const std::string statuses = load.wait().out;
  EXPECT_TRUE(std::regex_match(statuses, std::regex("(200\n)+"))) << statuses;
  EXPECT_EQ(between.size(), 2U);
  EXPECT_EQ(after.size(), 2U);
  for (const pid_t pid : between) {
    EXPECT_EQ(std::count(before.begin(), before.end(), pid), 0);
    EXPECT_EQ(std::count(after.begin(), after.end(), pid), 0);
  }
  end();
}

/// For wrk: posts, counts the answers by status, and prints that at the end.
constexpr char load_script[] = R"(
wrk.method = "POST"
wrk.body = string.rep("x", 4096)
local threads = {}
function setup(thread) table.insert(threads, thread) end
answered, lost, others = 0, 0, 0
function response(status)
  if status == 200 then answered = answered + 1
  elseif status == 502 then lost = lost + 1
  else others = others + 1 end
end
function done(summary)
  local errors = summary.errors
  local others = errors.connect + errors.read + errors.write + errors.timeout + threads[1]:get("others")
  print(string.format("answered %d lost %d others %d", threads[1]:get("answered"), threads[1]:get("lost"), others))
end
)";

// Under load, with kills and reloads in turn.
TEST_F(Server, OnlyCallsOfKilledWorkersFail) {
  start();
  const std::string script = write("load.lua", load_script);
  Program load({"wrk", "-t1", "-c16", "-d300s", "--timeout", "60s", "-s", script, url("/hash")});
  EXPECT_TRUE(Program::eventually(30s, [&] { return metric("drover_calls_total") > 100; }));
  constexpr std::size_t kills = 10;
  for (std::size_t i = 0; i < kills; ++i) {
    const double calls = metric("drover_calls_total");
    ::kill(workers().at(i % 2), SIGKILL);
    EXPECT_TRUE(Program::eventually(30s, [&] { return metric("drover_calls_total") > calls + 100; }));
    EXPECT_TRUE(
        Program::eventually(30s, [&] { return metric("drover_workers_ready") == 2 && metric("drover_workers") == 2; }));
    EXPECT_EQ(curl("/reload", {"--request", "POST"}).status, "200");
  }
  ::kill(load.pid(), SIGINT);
  const std::string out = load.wait().out;
  std::smatch counts;
  ASSERT_TRUE(std::regex_search(out, counts, std::regex("answered ([0-9]+) lost ([0-9]+) others ([0-9]+)"))) << out;
  EXPECT_GT(std::stoul(counts[1]), 1000U) << out;
  EXPECT_LE(std::stoul(counts[2]), kills) << out;
  EXPECT_EQ(counts[3], "0") << out;
  end();
}

// What the page shows comes without being asked for.
TEST_F(Server, TellsThePageWhatHappens) {
  start();
  const Answer page = curl("/");
  EXPECT_EQ(page.type, "text/html; charset=utf-8");
  EXPECT_NE(page.body.find("new EventSource(\"events\")"), std::string::npos);
  EXPECT_EQ(page.body.find("http://"), std::string::npos) << "it needs no other server";

  Socket events(port_);
  EXPECT_TRUE(events.send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n"));
  EXPECT_TRUE(events.read_to("Content-Type: text/event-stream\r\n"));
  EXPECT_TRUE(events.read_to("event: figures\ndata: {\"ready\":2,")) << events.text();
  ::kill(workers().at(0), SIGKILL);
  EXPECT_TRUE(events.read_to("exited unexpectedly: killed by SIGKILL\"}\n\n")) << events.text();
  EXPECT_TRUE(events.read_to("\"deaths\":{\"crashed\":1,")) << events.text();
  end();
  events.read_all();
}

// The request in flight is answered, idle connections and new ones are not served any more.
TEST_F(Server, SigtermLetsRequestsFinish) {
  start({"--deadline", "100"});
  Socket idle(port_);
  EXPECT_TRUE(idle.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n"));
  EXPECT_TRUE(idle.read_to("</html>"));
  signal_workers(SIGSTOP);
  Socket busy(port_);
  EXPECT_TRUE(busy.send(post("/hash", "abc")));
  EXPECT_TRUE(becomes("drover_calls_in_flight", 1));
  ::kill(program_->pid(), SIGTERM);
  idle.read_all();
  EXPECT_TRUE(Program::eventually(30s, [&] { return !Socket(port_).connected(); }));
  signal_workers(SIGCONT);
  const std::string answer = busy.read_all();
  EXPECT_EQ(answer.substr(0, 13), "HTTP/1.1 200 ");
  EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos);
  EXPECT_NE(answer.find(sha256_of_abc), std::string::npos);
  EXPECT_EQ(program_->wait().code, 0);
  EXPECT_TRUE(program_->processes().empty());
}

TEST_F(Server, ASecondSigtermDoesNotWaitForRequests) {
  start({"--deadline", "100"});
  signal_workers(SIGSTOP);
  Socket busy(port_);
  EXPECT_TRUE(busy.send(post("/hash", "abc")));
  EXPECT_TRUE(becomes("drover_calls_in_flight", 1));
  const Program::Clock::time_point begin = Program::Clock::now();
  ::kill(program_->pid(), SIGTERM);
  EXPECT_TRUE(Program::eventually(30s, [&] { return !Socket(port_).connected(); }));
  ::kill(program_->pid(), SIGTERM);
  EXPECT_EQ(busy.read_all(), "");
  EXPECT_EQ(program_->wait().code, 0);
  EXPECT_LT(Program::Clock::now() - begin, 9s);
  EXPECT_TRUE(program_->processes().empty());
}

TEST_F(Server, LimitsTheMemoryOfItsWorkers) {
#if !defined(DROVER_TEST_ASAN) && !defined(DROVER_TEST_TSAN)
  start({"--memory", "1024"});
#else
  start({"--memory", "1073741824"});  // a pebibyte, which is enough for a sanitizer
#endif
  const std::string expected = support::sanitized ? "1125899906842624" : "1073741824";
  for (const pid_t pid : workers()) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/limits");
    const std::string limits(std::istreambuf_iterator<char>(file), {});
    EXPECT_TRUE(std::regex_search(limits, std::regex("Max address space +" + expected + " +" + expected))) << limits;
  }
  end();
}

TEST_F(Server, RefusesAWrongCommandLineAndHelps) {
  using Arguments = std::vector<std::string>;
  for (const Arguments& wrong : {Arguments{"--port", "70000"}, Arguments{"--port", "http"}, Arguments{"--workers", "0"},
                                 Arguments{"--address", "here"}, Arguments{"--what"}, Arguments{"extra"}}) {
    Arguments argv = wrong;
    argv.insert(argv.begin(), DROVER_EXAMPLE);
    const Program::Result result = Program::run(argv);
    EXPECT_EQ(result.code, 2) << testing::PrintToString(wrong);
    EXPECT_NE(result.err.find("--help"), std::string::npos) << result.err;
  }
  const Program::Result help = Program::run({DROVER_EXAMPLE, "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_NE(help.out.find("SIGHUP reloads"), std::string::npos);
}

TEST_F(Server, SaysThatItsPortIsTaken) {
  start();
  const Program::Result result = Program::run({DROVER_EXAMPLE, "--port", std::to_string(port_)});
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("Address already in use"), std::string::npos) << result.err;
  end();
}

}  // namespace
