defmodule EmbeddedEpmd.DoctorTest do
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Doctor
  alias EmbeddedEpmd.Doctor.Findings

  @root Path.expand("..", __DIR__)

  @serving %{
    role: :serving,
    addresses: ["0.0.0.0", "::"],
    owner: nil,
    owner_answers: true,
    standbys: [],
    stands_by: false,
    obstacle: nil,
    socket_activated: false,
    descriptor_store: :nothing
  }
  @joined %{@serving | role: :joined, addresses: [], owner: "127.0.0.1:4369"}
  @none %{@serving | role: :stopped, addresses: []}
  @beam %{pid: "17", program: "beam.smp", user: 1000, inodes: ["5"]}
  @found {:port, 41_234, 6}
  @look_up %{
    node: "app@127.0.0.1",
    host: {{127, 0, 0, 1}, @found},
    own_address: true,
    loopback: {{127, 0, 0, 1}, @found}
  }

  @closed %{ip: {127, 0, 0, 1}, address: "127.0.0.1", port: 41_234, closed: true, tls: false}
  @open %{@closed | ip: {0, 0, 0, 0}, address: "0.0.0.0", closed: false}
  @inner [{{10, 0, 0, 7}, 24}, {{0xFD00, 0, 0, 0, 0, 0, 0, 7}, 64}]
  @public [{{8, 8, 4, 4}, 24}]

  @tls [{"-proto_dist", ["inet_tls"]}, {"-ssl_dist_optfile", ["/o"]}]
  @looping %{
    name: "loop",
    port: 1,
    registered: ~U[2026-11-28 11:59:47.600Z],
    left: ~U[2026-11-28 11:59:48.000Z],
    times: 3,
    since: ~U[2026-11-28 11:59:07.000Z]
  }
  @lost %{
    pid: "77",
    node: "lost@host",
    flags: [{"-name", ["lost@host"]}],
    ports: [41_235],
    stopped: false,
    erts: [11, 1],
    crash_dump: "/var/lib/lost/erl_crash.dump"
  }

  @healthy %{
    settings: nil,
    ignored: [],
    hand_over: true,
    descriptor_share: 40,
    reserved_names: [{"prod", ["prod"]}],
    module: EmbeddedEpmd.Discovery,
    both: false,
    parameter_ignored: false,
    fixed_port: nil,
    start_epmd: "false",
    release: %{root: "/app", node: "app@127.0.0.1", process: nil},
    vm_args: {"/app/releases/1/vm.args", "-start_epmd false\n-epmd_module Elixir.EmbeddedEpmd.Discovery\n"},
    remote_vm_args: {"/app/releases/1/remote.vm.args", "## flags\n-start_epmd false\n"},
    status: @serving,
    stats: %{descriptors: %{used: 40, limit: 65_536}, connections: %{registered: 1, waiting: 0}},
    node_flags: [],
    file_flags: [],
    client_flags: [{"-start_epmd", ["false"]}],
    own_flags: [],
    distribution: @open,
    networks: @inner,
    weak_cookie: false,
    local: nil,
    allow: nil,
    port_range: {nil, nil},
    addresses: [],
    unregistered: [],
    departed: [],
    now: ~U[2026-11-28 12:00:00Z],
    dumps: %{},
    service: false,
    netlink: :ok,
    linux: true,
    port: 4369,
    sockets: [%{inode: "5", user: 1000}],
    holders: [@beam],
    names: {:ok, [{"app", 41_234}]},
    node: :"app@127.0.0.1",
    ipv6: false,
    look_up: @look_up,
    host: {"host", {{127, 0, 1, 1}, :noport}}
  }

  # The VM of `bin/app eval`.
  @eval %{@healthy | node: :nonode@nohost, status: @none, stats: nil}

  test "a healthy VM has nothing but what is as it should be" do
    findings = Findings.judge(@healthy)
    assert Enum.all?(findings, &(&1.status == :ok)), Doctor.format(findings)
    assert Doctor.format(findings) =~ "Port 4369 is owned by beam.smp (pid 17, user id 1000)."
    assert Doctor.format(findings) =~ "These names are registered by processes of their users alone: prod (prod)."
  end

  for {facts, sentence} <- [
        {%{service: true}, "FileDescriptorStoreMax= in the unit of this service spares them that."},
        {%{status: %{@serving | socket_activated: true}}, "systemd keeps the port: lookups wait meanwhile."},
        {%{status: %{@serving | descriptor_store: :all}}, "systemd keeps the connections of all nodes"},
        {%{status: %{@serving | descriptor_store: :all, socket_activated: true}},
         "systemd keeps the port and the connections of all nodes"}
      ] do
    test "a service is told: #{sentence}" do
      findings = Findings.judge(Map.merge(@healthy, unquote(Macro.escape(facts))))
      assert Enum.all?(findings, &(&1.status == :ok)), Doctor.format(findings)
      assert Doctor.format(findings) =~ unquote(sentence)
    end
  end

  for {fault, changes, status, sentence} <- [
        {"a setting that is misspelt",
         %{ignored: ["config :embedded_epmd, adresses is ignored, since it is not a setting: did you mean addresses?"]},
         :warning, "config :embedded_epmd, adresses is ignored, since it is not a setting: did you mean addresses?"},
        {"a setting that is not valid", %{settings: "embedded_epmd: ERL_EPMD_PORT must be a port"}, :problem,
         "A setting is not valid: embedded_epmd: ERL_EPMD_PORT"},
        {"OTP's discovery module", %{module: "erl_epmd"}, :problem, "The discovery module of this VM is erl_epmd."},
        {"a flag and a parameter", %{both: true}, :problem, "Both the flag -epmd_module and the kernel parameter"},
        {"a parameter that this OTP ignores", %{both: true, parameter_ignored: true}, :warning,
         "Both the flag -epmd_module and the kernel parameter"},
        {"a module of OTP in a VM that was started by hand, and is found", %{module: "erl_epmd", release: nil},
         :warning, "The discovery module of this VM is erl_epmd."},
        {"a fixed port", %{fixed_port: 6789, look_up: %{@look_up | host: {{127, 0, 0, 1}, :noport}}}, :warning,
         "the fixed distribution port 6789"},
        {"a daemon that is started", %{start_epmd: "true"}, :problem, "-start_epmd false is not set."},
        {"no file for the clients", %{remote_vm_args: nil}, :warning, "remote.vm.args cannot be read"},
        {"clients that start a daemon",
         %{remote_vm_args: {"/r", ""}, client_flags: [{"-start_epmd", ["false"]}, {"-start_epmd", ["true"]}]}, :problem,
         "/r does not have -start_epmd false."},
        {"no server, and a node that nobody finds", %{status: @none, look_up: nil}, :problem,
         "No server of embedded_epmd runs"},
        {"no server, but the node is found", %{status: @none}, :warning, "No server of embedded_epmd runs"},
        {"a server without a port", %{status: %{@none | role: :searching}}, :problem, "looks for port 4369"},
        {"an owner that hangs", %{status: %{@joined | owner_answers: false}}, :problem,
         "127.0.0.1:4369 holds the port and does not answer."},
        {"an owner that may have no standby", %{status: %{@serving | obstacle: "a policy denies it"}}, :warning,
         "No VM can stand by for this one: a policy denies it."},
        {"one that can be no standby", %{status: %{@joined | obstacle: "its addresses differ"}}, :warning,
         "This VM cannot stand by for 127.0.0.1:4369: its addresses differ."},
        {"a flag with which OTP asks no module", %{node_flags: [{"-no_epmd", []}]}, :problem, "-no_epmd is set."},
        {"the same for clients", %{client_flags: [{"-start_epmd", ["false"]}, {"-no_epmd", []}]}, :problem,
         "-no_epmd is set."},
        {"a transport that clients lack", %{node_flags: @tls, file_flags: @tls}, :problem,
         "The node has -proto_dist inet_tls and -ssl_dist_optfile /o, and remote.vm.args has not."},
        {"a transport that the environment of the node names", %{node_flags: @tls}, :warning,
         "The node has -proto_dist inet_tls and -ssl_dist_optfile /o, and remote.vm.args has not."},
        {"a transport that the node lacks", %{client_flags: [{"-start_epmd", ["false"]} | @tls]}, :problem,
         "remote.vm.args has -proto_dist inet_tls and -ssl_dist_optfile /o, and the node has not."},
        {"two transports",
         %{node_flags: @tls, client_flags: [{"-start_epmd", ["false"]}, {"-proto_dist", ["inet6_tls"]}]}, :problem,
         "The node has -proto_dist inet_tls, and bin/app rpc and its like have -proto_dist inet6_tls."},
        {"an arguments file that cannot be read", %{file_flags: [{"-args_file", ["/etc/more"]}]}, :warning,
         "The arguments file /etc/more, which another one includes (-args_file), cannot be read."},
        {"a node on loopback beside an EPMD that is open to all", %{distribution: @closed}, :warning,
         "This node listens at 127.0.0.1 only, but the EPMD on all addresses."},
        {"the same with addresses", %{distribution: @closed, addresses: ["127.0.0.1", "10.0.0.7"]}, :warning,
         "but the EPMD on 127.0.0.1, 10.0.0.7."},
        {"an EPMD on loopback beside a node that is open to all",
         %{addresses: ["127.0.0.1", "::1"], status: %{@serving | addresses: ["127.0.0.1", "::1"]}}, :warning,
         "The EPMD listens at 127.0.0.1, ::1 only, but this node on all addresses."},
        {"a node that other hosts reach, with a weak cookie", %{weak_cookie: true}, :warning,
         "Other hosts reach the distribution on all addresses, port 41234 (TCP, not encrypted), and the cookie is weak."},
        {"the same over TLS", %{weak_cookie: true, distribution: %{@open | tls: true}}, :warning,
         "Other hosts reach the distribution on all addresses, port 41234 (TLS), and the cookie is weak."},
        {"a node on a public address, without TLS", %{networks: @inner ++ @public}, :warning,
         "The distribution listens on the public address 8.8.4.4, port 41234 (TCP, not encrypted)."},
        {"a node that should be closed, and is told to listen elsewhere",
         %{local: true, distribution: %{@open | ip: {10, 0, 0, 7}}}, :warning,
         "local is true, but other hosts reach the distribution on 10.0.0.7, port 41234 (TCP, not encrypted)."},
        {"a range of ports without its end", %{port_range: {9100, nil}}, :warning,
         "inet_dist_listen_min is 9100, and inet_dist_listen_max is not set."},
        {"a range of ports without its beginning", %{port_range: {nil, 9100}}, :warning,
         "inet_dist_listen_max is 9100, and inet_dist_listen_min is not set."},
        {"a node that comes and goes", %{departed: [@looping]}, :warning,
         "loop was registered until 12 s ago, for 0.4 s, 3 times in 41 s."},
        {"a VM that is not registered", %{unregistered: [@lost]}, :warning,
         "lost@host runs (pid 77, listens on port 41235) and is not registered on port 4369."},
        {"a descriptor store that is used up", %{status: %{@serving | descriptor_store: :some}}, :warning,
         "systemd keeps no more descriptors for this service."},
        {"names that belong to users, of whom the kernel cannot be asked", %{netlink: {:error, :eafnosupport}},
         :warning,
         "This VM cannot ask the kernel whose a registration is (address family not supported by protocol family)."},
        {"an owner nobody sees", %{holders: []}, :warning,
         "Port 4369 is owned by a process that this user cannot see, of user id 1000."},
        {"a unit that hides /proc", %{sockets: :unknown, holders: []}, :warning, "/proc is hidden from this VM"},
        {"a system that does not tell", %{sockets: :unknown, holders: [], linux: false}, :warning,
         "cannot be seen on this system"},
        {"a port that is forwarded", %{sockets: [], holders: []}, :warning,
         "Somebody answers on port 4369, but no process of this host listens there."},
        {"a proxy before the port", %{holders: [@beam, %{@beam | pid: "9", program: "socat", inodes: ["6"]}]}, :warning,
         "socat (pid 9, user id 1000) has port 4369, and is neither an Erlang VM nor epmd."},
        {"a daemon that has the port", %{status: @joined, holders: [%{@beam | pid: "99", program: "epmd"}]}, :warning,
         "An epmd daemon has port 4369: pid 99."},
        {"a node that is not found", %{look_up: %{@look_up | host: {{10, 0, 0, 1}, {:error, :econnrefused}}}}, :problem,
         "At 10.0.0.1 this node is not found: connection refused; at 127.0.0.1 it is."},
        {"a node that is not registered", %{look_up: %{@look_up | host: {{127, 0, 0, 1}, :noport}}}, :problem,
         "no such name is registered there"},
        {"a node that cannot be asked for from here",
         %{look_up: %{@look_up | host: {{192, 0, 2, 1}, {:error, :etimedout}}, own_address: false}}, :warning,
         "At 192.0.2.1 this node is not found"},
        {"a node whose host has no address", %{look_up: %{@look_up | host: {:error, :nxdomain}}}, :warning,
         "The host of app@127.0.0.1 has no address"},
        {"clients that cannot register",
         %{
           look_up: %{
             @look_up
             | host: {{127, 0, 0, 2}, {:port, 4, 6}},
               loopback: {{127, 0, 0, 1}, {:error, :econnrefused}}
           }
         }, :problem, "At 127.0.0.1 nobody answers: connection refused."},
        {"IPv6 without a listener",
         %{
           ipv6: true,
           look_up: %{
             @look_up
             | host: {{0, 0, 0, 0, 0, 0, 0, 2}, {:port, 4, 6}},
               loopback: {{0, 0, 0, 0, 0, 0, 0, 1}, {:error, :econnrefused}}
           }
         }, :problem, "Distribution is over IPv6, but at ::1 nobody answers"},
        {"a host name elsewhere", %{host: {"host", {{127, 0, 1, 1}, {:error, :econnrefused}}}}, :warning,
         "The host name host is 127.0.1.1, where nobody answers."},
        {"a host name without an address", %{host: {"host", {:error, :nxdomain}}}, :warning, "has no address"},
        {"few descriptors",
         %{stats: %{descriptors: %{used: 40, limit: 256}, connections: %{registered: 1, waiting: 0}}}, :warning,
         "may open 256 descriptors"},
        {"a share of the descriptors that is used up",
         %{stats: %{descriptors: %{used: 900, limit: 2_000}, connections: %{registered: 700, waiting: 20}}}, :warning,
         "Registered nodes (700) and connections that wait (20) have 720 of the 800 descriptors that they may have"},
        {"descriptors that are used up",
         %{stats: %{descriptors: %{used: 250, limit: 256}, connections: %{registered: 222, waiting: 1}}}, :warning,
         "has 250 of its 256 descriptors open; 222 are of registered nodes, 1 of connections that wait."}
      ] do
    test "#{fault} is found, and explained" do
      findings = Findings.judge(Map.merge(@healthy, unquote(Macro.escape(changes))))
      assert [finding] = Enum.filter(findings, &(&1.status != :ok)), Doctor.format(findings)
      assert finding.status == unquote(status)
      assert finding.what =~ unquote(sentence)
      assert is_binary(finding.why) and is_binary(finding.fix)
    end
  end

  # Container probes use the doctor, so a healthy VM must never have a problem.
  for {layout, changes} <- [
        {"a standby without a process id", %{status: %{@serving | standbys: [%{name: "stage", pid: nil}]}}},
        {"a loopback of its own beside another EPMD",
         %{look_up: %{@look_up | host: {{127, 0, 0, 2}, {:port, 4, 6}}, loopback: {{127, 0, 0, 1}, :noport}}}},
        {"clients that do not listen, and so need no address to register at",
         %{
           client_flags: [{"-start_epmd", ["false"]}, {"-dist_listen", ["false"]}],
           look_up: %{
             @look_up
             | host: {{127, 0, 0, 2}, {:port, 4, 6}},
               loopback: {{127, 0, 0, 1}, {:error, :econnrefused}}
           }
         }},
        {"an owner of another address beside this one", %{holders: [@beam, %{@beam | pid: "9", inodes: ["6"]}]}},
        {"no handover wanted, nor possible", %{hand_over: false, status: %{@serving | obstacle: "it is denied"}}},
        {"a loopback for both", %{distribution: @closed, addresses: ["127.0.0.1", "::1"], weak_cookie: true}},
        {"a loopback, and an EPMD that answers no others", %{distribution: @closed, allow: []}},
        {"a host without a network", %{networks: [], weak_cookie: true}},
        {"a host whose networks cannot be listed", %{networks: :unknown}},
        {"a loopback on such a host", %{networks: :unknown, distribution: @closed, addresses: ["127.0.0.1", "::1"]}},
        {"a public address with TLS", %{networks: @public, distribution: %{@open | tls: true}}},
        {"an EPMD on loopback beside a node that is meant to be open", %{addresses: ["127.0.0.1"], local: false}},
        {"a public address that is meant so, as behind a firewall", %{networks: @public, local: false}},
        {"a node that does not listen", %{distribution: nil, weak_cookie: true}},
        {"a range of ports", %{port_range: {9100, 9199}}},
        {"a transport of both", %{node_flags: @tls, client_flags: [{"-start_epmd", ["false"]} | @tls]}},
        {"a name that left once, or long ago",
         %{departed: [%{@looping | times: 1}, %{@looping | left: ~U[2026-11-28 10:00:00Z]}]}},
        {"a socket unit of systemd", %{status: @joined, holders: [%{@beam | pid: "1", program: "systemd"}]}},
        {"a VM that is no node", %{node: :nonode@nohost, release: nil, look_up: nil, status: @none, module: "erl_epmd"}}
      ] do
    test "#{layout} is as it should be" do
      findings = Findings.judge(Map.merge(@healthy, unquote(Macro.escape(changes))))
      assert Enum.all?(findings, &(&1.status == :ok)), Doctor.format(findings)
    end
  end

  for {changes, sentences} <- [
        {%{},
         [
           "The distribution listens on all addresses, port 41234 (TCP, not encrypted): hosts of 10.0.0.7/24 reach it",
           "The EPMD answers lookups of 10.0.0.7/24, fd00::7/64, if no firewall forbids it."
         ]},
        {%{
           distribution: %{@open | ip: {0, 0, 0, 0, 0, 0, 0, 0}},
           networks: for(n <- 1..6, do: {{10, n, 0, 7}, 16}),
           allow: ["10.0.0.0/8"]
         },
         [
           "hosts of 10.1.0.7/16, 10.2.0.7/16, 10.3.0.7/16, 10.4.0.7/16 and 2 more reach it",
           "The EPMD answers lookups of 10.0.0.0/8 (:allow)."
         ]},
        {%{
           distribution: @closed,
           weak_cookie: true,
           addresses: ["127.0.0.1"],
           status: %{@serving | addresses: ["127.0.0.1"]}
         },
         [
           "The distribution listens at 127.0.0.1, port 41234 (TCP, not encrypted): only this host reaches it, and its cookie is weak",
           "The EPMD is reached by this host only."
         ]},
        {%{networks: :unknown},
         [
           "(TCP, not encrypted): hosts of networks that cannot be listed here (RestrictAddressFamilies= without AF_NETLINK) reach it",
           "The EPMD answers lookups of networks that cannot be listed here"
         ]},
        {%{allow: []}, ["The EPMD answers this host only (:allow), though 10.0.0.7/24, fd00::7/64 can connect to it."]}
      ] do
    test "what is exposed is told: #{hd(sentences)}" do
      text = text(Map.merge(@healthy, unquote(Macro.escape(changes))))
      for sentence <- unquote(sentences), do: assert(text =~ "ok       " and text =~ sentence, text)
    end
  end

  test "a standby without a process id has none in its sentence" do
    text = text(%{@healthy | status: %{@serving | standbys: [%{name: "stage", pid: nil}]}})
    assert text =~ "ok       stage stands by: when this VM goes"
  end

  test "copies of one listener are an owner's and a standby's; listeners of two addresses are not" do
    assert text(%{@healthy | holders: [@beam, %{@beam | pid: "9"}]}) =~ "by its owner, and by who stands by for it"
    refute text(%{@healthy | holders: [@beam, %{@beam | pid: "9", inodes: ["6"]}]}) =~ "stands by for it"
  end

  test "a file of somebody's own is named where it is to be changed" do
    facts = %{@healthy | remote_vm_args: {"/etc/app/remote.vm.args", ""}, client_flags: []}
    assert text(facts) =~ "Do: Write -start_epmd false into /etc/app/remote.vm.args.\n"
    facts = %{@healthy | remote_vm_args: {"/app/releases/1/remote.vm.args", ""}, client_flags: []}
    assert text(facts) =~ "into rel/remote.vm.args.eex, and assemble the release again."
    facts = %{@healthy | module: "erl_epmd", vm_args: {"/etc/app/vm.args", ""}}
    assert text(facts) =~ "Do: Write -epmd_module Elixir.EmbeddedEpmd.Discovery into /etc/app/vm.args "
  end

  describe "from a VM that is no node, the release" do
    test "is found, and so is who else is registered" do
      findings = Findings.judge(@eval)
      assert Enum.all?(findings, &(&1.status == :ok)), Doctor.format(findings)
      assert Doctor.format(findings) =~ "At 127.0.0.1 app@127.0.0.1 is found, with port 41234."
      assert Doctor.format(findings) =~ "Registered on port 4369: app."
    end

    test "is not found where nodes ask" do
      look_up = %{@look_up | host: {{127, 0, 1, 1}, {:error, :econnrefused}}}
      assert [finding] = problems(%{@eval | look_up: look_up})
      assert finding.what =~ "At 127.0.1.1 app@127.0.0.1 is not found: connection refused; at 127.0.0.1 it is."
      assert finding.fix =~ "Listen on 127.0.1.1 as well"
    end

    test "runs and is registered nowhere" do
      nowhere = {{127, 0, 0, 1}, {:error, :econnrefused}}
      look_up = %{@look_up | host: nowhere, loopback: nowhere}
      facts = %{@eval | look_up: look_up, holders: [], sockets: [], names: {:error, :econnrefused}}
      assert [finding] = problems(%{facts | release: %{@eval.release | process: "77"}})
      assert finding.what =~ "connection refused; it runs as pid 77."

      # A release that does not run yet is no problem.
      assert problems(facts) == []
      assert text(facts) =~ "warning  At 127.0.0.1 app@127.0.0.1 is not found: connection refused."
      assert text(facts) =~ "ok       Nobody listens on port 4369."
    end
  end

  defp problems(facts), do: for(%{status: :problem} = finding <- Findings.judge(facts), do: finding)
  defp text(facts), do: facts |> Findings.judge() |> Doctor.format()

  test "a real VM: who owns the port, and where it is found" do
    port = free_port()
    vm = start_ours(unique("patient"), port)
    findings = call(vm, EmbeddedEpmd, :examine)
    # The machine of the tests may run a daemon, and its host name may have any address, so only problems count.
    assert for(%{status: :problem} = finding <- findings, do: finding) == []
    text = Doctor.format(findings)
    assert text =~ "Port #{port} is owned by beam.smp (pid #{pid(vm)}, user id "
    assert text =~ "At 127.0.0.1 this node is found, with port"
  end

  test "two VMs with a loopback of their own: nothing is wrong with either" do
    port = free_port()
    vms = for ip <- ["127.0.0.1", "127.0.0.2"], do: start_ours(unique("own"), port, host: ip)

    for vm <- vms do
      findings = call(vm, EmbeddedEpmd, :examine)
      assert for(%{status: :problem} = finding <- findings, do: finding) == []
    end
  end

  test "the first of two modules counts, as for OTP, and the last of two -start_epmd" do
    # The daemon that -start_epmd true starts finds the port taken, and exits.
    port = free_port()
    _ = start_ours(unique("owner"), port)
    ours = start_ours(unique("twice"), port, flags: ~w(-epmd_module erl_epmd -start_epmd true))
    findings = call(ours, EmbeddedEpmd, :examine)

    assert "The discovery module of this VM is EmbeddedEpmd.Discovery." in for(
             %{status: :ok, what: what} <- findings,
             do: what
           )

    assert "-start_epmd false is not set." in for(%{status: :warning, what: what} <- findings, do: what)
  end

  test "the task checks a project's files, and its status is for scripts" do
    # This project has no release of its own.
    {text, 1} =
      System.cmd("mix", ["embedded_epmd.doctor"], cd: @root, env: Support.Project.here(), stderr_to_stdout: true)

    assert text =~ "PROBLEM  rel/vm.args.eex is missing; it should have -start_epmd false and -epmd_module"
    assert text =~ "Do: Run mix embedded_epmd.install."
  end
end
