defmodule Support.Network do
  @moduledoc """
  Network namespaces for tests, in which VMs can be started. A namespace ends with the process that created it. For
  users other than root it comes with a user namespace, in which they are root.
  """

  import Support.Vm, only: [eventually: 1]

  @doc "Creates a network with only a loopback."
  def start, do: start(nil)

  # Networks can be connected only if they belong to one user namespace, so the second one is created in the first.
  defp start(beside) do
    unshare = ["unshare" | if(beside == nil and not root?(), do: ["--map-root-user", "--net"], else: ["--net"])]
    # cat ends when its input ends, which is when the port is closed.
    [program | arguments] = if(beside, do: enter(beside), else: []) ++ unshare ++ ["cat"]
    port = Port.open({:spawn_executable, System.find_executable(program)}, [:binary, args: arguments])
    {:os_pid, pid} = Port.info(port, :os_pid)
    eventually(fn -> File.read("/proc/#{pid}/comm") == {:ok, "cat\n"} end)
    network = "#{pid}"
    run(network, ~w(ip link set lo up))
    network
  end

  @doc "Creates two networks that are connected to each other, with these addresses; returns both."
  def start_linked(address, other_address) do
    one = start()
    other = start(one)
    run(one, ~w(ip link add wire type veth peer name wire netns #{other}))

    for {network, address} <- [{one, address}, {other, other_address}] do
      run(network, ~w(ip address add #{address}/24 dev wire))
      run(network, ~w(ip link set wire up))
    end

    [one, other]
  end

  @doc "Drops all packets from a port of this network, as a firewall would."
  def drop(network, port) do
    # The rule for local addresses comes first by default, so it is moved behind ours.
    run(network, ~w(ip rule add pref 20 lookup local))
    # 6 is TCP.
    run(network, ~w(ip rule add pref 10 ipproto 6 sport #{port} blackhole))
    run(network, ~w(ip rule del pref 0))
  end

  @doc "Runs a command in the network, which must succeed."
  def run(network, command) do
    [program | arguments] = enter(network) ++ command
    {text, status} = System.cmd(program, arguments, stderr_to_stdout: true)
    if status != 0, do: ExUnit.Assertions.flunk("#{Enum.join(command, " ")} ended with #{status}: #{text}")
    text
  end

  @doc "The option of `Vm` that starts a VM in the network."
  def option(network), do: exec(enter(network) ++ ["erl"])

  @doc "The same, with a hosts file and a host name of its own."
  def option(network, hosts, name) do
    script = ~S(mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@")
    exec(enter(network) ++ ["unshare", "--mount", "--uts", "sh", "-c", script, hosts, name, "erl"])
  end

  defp exec([program | arguments]),
    do: {:exec, {String.to_charlist(System.find_executable(program)), Enum.map(arguments, &String.to_charlist/1)}}

  defp enter(network) do
    user = if root?(), do: [], else: ["--user", "--preserve-credentials"]
    ["nsenter", "--target", network, "--net"] ++ user
  end

  defp root?, do: match?({"0\n", 0}, System.cmd("id", ["-u"]))
end
