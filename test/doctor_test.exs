defmodule EmbeddedEpmd.DoctorTest do
  use ExUnit.Case, async: true

  import EmbeddedEpmd.Vm

  alias EmbeddedEpmd.Doctor

  @root Path.expand("..", __DIR__)

  @healthy %{
    module: EmbeddedEpmd.Discovery,
    both: false,
    fixed_port: nil,
    start_epmd: "false",
    release: true,
    remote_vm_args: {"/app/releases/1/remote.vm.args", "## flags\n-start_epmd false\n"},
    status: %{
      role: :serving,
      addresses: ["0.0.0.0", "::"],
      owner: nil,
      owner_answers: true,
      standby: nil,
      stands_by: false
    },
    port: 4369,
    holders: [{"17", "beam.smp", 1000}],
    daemons: [],
    node: :"app@127.0.0.1",
    registered: [{{127, 0, 0, 1}, {:port, 41_234, 6}}],
    host: {"host", {:ok, {127, 0, 1, 1}}},
    ipv6_distribution: false,
    descriptor_limit: 65_536
  }

  test "a healthy VM has nothing but what is as it should be" do
    findings = Doctor.judge(@healthy)
    assert Enum.all?(findings, &(&1.status == :ok)), Doctor.format(findings)
    assert Doctor.format(findings) =~ "Port 4369 is owned by beam.smp (pid 17, user id 1000)."
  end

  for {fault, changes, status, sentence} <- [
        {"OTP's discovery module", %{module: "erl_epmd"}, :problem, "The discovery module of this VM is erl_epmd."},
        {"a flag and a parameter", %{both: true}, :problem, "Both the flag -epmd_module and the kernel parameter"},
        {"a fixed port", %{fixed_port: "6789"}, :warning, "the fixed distribution port 6789"},
        {"a daemon that is started", %{start_epmd: "true"}, :problem, "-start_epmd false is not set."},
        {"no file for the clients", %{remote_vm_args: nil}, :warning, "remote.vm.args cannot be read"},
        {"clients that start a daemon", %{remote_vm_args: {"/r", "## -start_epmd false\n"}}, :problem,
         "/r does not have -start_epmd false."},
        {"no server",
         %{status: %{role: :stopped, addresses: [], owner: nil, owner_answers: true, standby: nil, stands_by: false}},
         :problem, "No server of embedded_epmd runs"},
        {"a server without a port",
         %{status: %{role: :searching, addresses: [], owner: nil, owner_answers: true, standby: nil, stands_by: false}},
         :problem, "looks for port 4369"},
        {"an owner that hangs",
         %{
           status: %{
             role: :joined,
             addresses: [],
             owner: "127.0.0.1:4369",
             owner_answers: false,
             standby: nil,
             stands_by: false
           }
         }, :problem, "127.0.0.1:4369 holds the port and does not answer."},
        {"an owner nobody sees", %{holders: []}, :warning, "No process that this user can see"},
        {"a system that does not tell", %{holders: :unknown}, :warning, "cannot be seen on this system"},
        {"a stray daemon", %{daemons: ["99"]}, :warning, "An epmd daemon runs: pid 99."},
        {"a node that is not found", %{registered: [{{10, 0, 0, 1}, {:error, :econnrefused}}]}, :problem,
         "At 10.0.0.1 this node is not found: connection refused."},
        {"a node that is not registered", %{registered: [{{10, 0, 0, 1}, :noport}]}, :problem,
         "no such name is registered there"},
        {"no node", %{node: :nonode@nohost}, :warning, "This VM is no node."},
        {"a host name elsewhere",
         %{
           status: %{
             role: :serving,
             addresses: ["127.0.0.1"],
             owner: nil,
             owner_answers: true,
             standby: nil,
             stands_by: false
           }
         }, :warning, "The host name host is 127.0.1.1, where this VM does not listen."},
        {"a host name without an address", %{host: {"host", {:error, :nxdomain}}}, :warning, "has no address"},
        {"IPv6 without a listener",
         %{
           ipv6_distribution: true,
           status: %{
             role: :serving,
             addresses: ["0.0.0.0"],
             owner: nil,
             owner_answers: true,
             standby: nil,
             stands_by: false
           }
         }, :problem, "Distribution is over IPv6, but"},
        {"few descriptors", %{descriptor_limit: 256}, :warning, "may open 256 descriptors"}
      ] do
    test "#{fault} is found, and explained" do
      findings = Doctor.judge(Map.merge(@healthy, unquote(Macro.escape(changes))))
      assert [finding] = Enum.filter(findings, &(&1.status != :ok))
      assert finding.status == unquote(status)
      assert finding.what =~ unquote(sentence)
      assert is_binary(finding.why) and is_binary(finding.do)
    end
  end

  test "a real VM: who owns the port, and where it is found; then the fault it is given" do
    port = free_port()
    vm = start_ours(unique("patient"), port)
    findings = call(vm, EmbeddedEpmd, :examine)
    # A daemon may run on the machine of the tests, and its name may have any address.
    assert for(%{status: :problem} = finding <- findings, do: finding) == []
    text = Doctor.format(findings)
    assert text =~ "Port #{port} is owned by beam.smp (pid #{pid(vm)}, user id "
    assert text =~ "At 127.0.0.1 this node is found, with port"

    {:ok, server} = call(vm, EmbeddedEpmd.Lifecycle, :server)
    :ok = call(vm, EmbeddedEpmd.Native, :stop, [server])
    problems = for %{status: :problem, what: what} <- call(vm, EmbeddedEpmd, :examine), do: what
    assert "No server of embedded_epmd runs in this VM." in problems
    assert "At 127.0.0.1 this node is not found: connection refused." in problems
  end

  test "the task checks a project's files, and its status is for scripts" do
    # This project has no release of its own.
    {text, 1} =
      System.cmd("mix", ["embedded_epmd.doctor"], cd: @root, env: [{"MIX_ENV", "test"}], stderr_to_stdout: true)

    assert text =~ "PROBLEM  rel/vm.args.eex is missing; it should have -start_epmd false and -epmd_module"
    assert text =~ "Do: Run mix embedded_epmd.install."
  end
end
