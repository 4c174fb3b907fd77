defmodule Support.Faults do
  @moduledoc """
  Two real VMs with one fault between them, made on purpose. What the doctor finds is compared with what OTP does:
  with a fault the nodes do not connect, without one they do. EMBEDDED_EPMD_TABLE=1 prints a table of faults and
  findings.
  """

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1]
  import Support.Vm

  alias EmbeddedEpmd.Doctor.Connection
  alias Support.Registration

  @doc "For `setup_all`: a table of the findings, printed at the end if EMBEDDED_EPMD_TABLE is set."
  def table(_context) do
    table = :ets.new(:table, [:public])

    if System.get_env("EMBEDDED_EPMD_TABLE") do
      keeper = spawn(fn -> receive do: (:print -> print(table)) end)
      :ets.give_away(table, keeper, nil)

      on_exit(fn ->
        send(keeper, :print)
        eventually(fn -> not Process.alive?(keeper) end)
      end)
    end

    %{table: table}
  end

  @doc "For `setup`: a free port and two names."
  def names(_context), do: %{port: free_port(), here: unique("here"), other: unique("other")}

  ## Assertions

  # A fault is found as one problem, which is the last finding, and OTP does not connect.
  def assert_fault(context, fault, vm, node, step, sentence) do
    findings = examine(vm, node)
    note(context, fault, findings)
    assert [problem] = for(%{status: :problem} = problem <- findings, do: problem), Connection.format(findings)
    assert problem == List.last(findings)
    assert problem.step == step, Connection.format(findings)
    assert problem.what =~ sentence
    assert is_binary(problem.why) and is_binary(problem.fix)
    refute call(vm, :net_kernel, :connect_node, [node])
    problem
  end

  def assert_fine(context, name, a, b) do
    findings = examine(a, node_of(b))
    note(context, name, findings)
    assert_healthy(findings)
    assert List.last(findings).step == :identity
    assert_connected(a, b)
  end

  def assert_healthy(findings), do: assert(Enum.all?(findings, &(&1.status == :ok)), Connection.format(findings))

  def assert_connected(a, b), do: assert(call(a, :net_kernel, :connect_node, [node_of(b)]))

  def examine(vm, node), do: call(vm, EmbeddedEpmd, :examine, [node])

  def whats(findings), do: Enum.map(findings, & &1.what)

  ## The VMs

  def pair(context, options \\ []) do
    [a, b] = for name <- [context.here, context.other], do: start_ours(name, context.port, options)
    {a, b}
  end

  def node_of(vm), do: call(vm, :erlang, :node)

  def put(vm, key, value), do: :ok = call(vm, :application, :set_env, [:embedded_epmd, key, value])

  def suspended(vm, check) do
    pid = pid(vm)
    suspend(pid)

    try do
      check.()
    after
      {_, 0} = System.cmd("kill", ["-CONT", pid])
    end
  end

  # Flags for OTP's own resolver with these lines, so that only name servers of the test are asked.
  def inetrc(lines, sources \\ [:file]) do
    file = Path.join(Support.Folder.new("inetrc"), "inetrc")
    lookup = Enum.join(sources, ",")
    File.write!(file, "{lookup,[#{lookup}]}.\n{hosts_file,\"\"}.\n{resolv_conf,\"\"}.\n#{lines}\n")
    ["-kernel", "inetrc", inspect(file)]
  end

  ## Programs that are not nodes

  # Registers the other node's name, as a node of this distribution version would, until the test ends.
  def register(context, port, version) do
    {_, <<_, 0, _::binary>>} = Registration.alive2(context.other, context.port, node_port: port, highest: version)
  end

  # A name server that answers every question with one address; returns its line for `inetrc`.
  def name_server({a, b, c, d}) do
    {:ok, socket} = :gen_udp.open(0, [:binary, ip: {127, 0, 0, 1}, active: false])
    {:ok, port} = :inet.port(socket)
    spawn_link(fn -> resolve(socket, <<0xC0, 12, 1::16, 1::16, 1::32, 4::16, a, b, c, d>>) end)
    "{nameserver,{127,0,0,1},#{port}}."
  end

  defp resolve(socket, answer) do
    with {:ok, {ip, port, <<id::16, _::80, rest::binary>>}} <- :gen_udp.recv(socket, 0) do
      [name, _] = :binary.split(rest, <<0>>)
      question = binary_part(rest, 0, byte_size(name) + 5)
      :gen_udp.send(socket, ip, port, [<<id::16, 0x8180::16, 1::16, 1::16, 0::32>>, question, answer])
      resolve(socket, answer)
    end
  end

  ## The table

  def note(%{table: table}, fault, findings) do
    last = Enum.find(findings, List.last(findings), &(&1.status == :problem))
    took = findings |> Enum.uniq_by(& &1.step) |> Enum.map(& &1.took) |> Enum.sum()
    if :ets.info(table) != :undefined, do: :ets.insert(table, {System.unique_integer([:monotonic]), fault, last, took})
  end

  defp print(table) do
    IO.puts("\nOTP #{:erlang.system_info(:otp_release)}: fault, step, all steps in milliseconds, sentence")

    for {_, fault, finding, took} <- Enum.sort(:ets.tab2list(table)) do
      IO.puts(
        "#{String.pad_trailing(fault, 34)} #{String.pad_trailing("#{finding.step}", 10)} #{div(took, 1000)}  #{finding.what}"
      )
    end
  end
end
