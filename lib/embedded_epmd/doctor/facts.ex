defmodule EmbeddedEpmd.Doctor.Facts do
  @moduledoc false
  # Gathers facts about this VM, its release and the host. `Findings` judges them.

  alias EmbeddedEpmd.{Client, Config, Environment, HostAddress, Lifecycle}
  alias EmbeddedEpmd.Doctor.Linux

  @timeout 2_000

  @typedoc "The address at which an EPMD was asked for a name, and what it answered."
  @type answer :: {:inet.ip_address(), Client.answer() | {:error, atom()}}

  @spec gather() :: map()
  def gather do
    status = EmbeddedEpmd.status()
    config = config()
    port = status.port || config.port
    release = release()

    Map.merge(host(port), %{
      settings: config.error,
      ignored: Config.ignored(),
      hand_over: config.hand_over,
      descriptor_share: config[:descriptor_share],
      owners: config[:owners] || %{},
      module: module(),
      both: argument(:epmd_module) != nil and parameter?(),
      parameter_ignored: parameter?() and not parameter_read?(),
      fixed_port: fixed_port(),
      # erlexec takes the last one.
      start_epmd: List.last(arguments(:start_epmd), "true"),
      release: release,
      vm_args: release_file("RELEASE_VM_ARGS", "vm.args"),
      remote_vm_args: release_file("RELEASE_REMOTE_VM_ARGS", "remote.vm.args"),
      status: status,
      stats: with({:ok, stats} <- EmbeddedEpmd.stats(), do: stats, else: (_ -> nil)),
      unix_sockets: unix_sockets(),
      # systemd gives it to every service.
      service: System.get_env("INVOCATION_ID") != nil,
      netlink: netlink(),
      node: node(),
      ipv6: Environment.family() == :inet6,
      look_up: look_up(port, release),
      host: host_name(port)
    })
  end

  @doc "The facts about the host only."
  @spec host() :: map()
  def host, do: host(config().port)

  defp host(port) do
    sockets = Linux.listening(port)

    %{
      linux: match?({:unix, :linux}, :os.type()),
      port: port,
      sockets: sockets,
      holders: if(sockets == :unknown, do: [], else: Linux.holders(sockets, port)),
      names: names(port)
    }
  end

  # An invalid setting is a finding; the other facts are gathered all the same.
  defp config do
    Map.put(Config.load(Lifecycle.options()), :error, nil)
  rescue
    error in ArgumentError -> %{port: 4369, hand_over: true, error: error.message}
  end

  # OTP itself decides between flag and parameter. It raises if a node could not start.
  defp module do
    to_string(:net_kernel.epmd_module())
  catch
    _, _ -> argument(:epmd_module)
  end

  defp parameter?, do: Application.get_env(:kernel, :epmd_module) != nil

  @doc "Whether this OTP, 27.2 or later, reads the kernel parameter `epmd_module`."
  @spec parameter_read?() :: boolean()
  def parameter_read? do
    [major, minor | _] = :kernel |> Application.spec(:vsn) |> to_string() |> String.split(".")
    {String.to_integer(major), minor |> Integer.parse() |> elem(0)} >= {10, 2}
  end

  defp fixed_port do
    with {:ok, port} when port != 0 <- :erl_epmd.listen_port_please(~c"doctor", ~c"localhost"),
         do: port,
         else: (_ -> nil)
  end

  # `-flag value`: OTP takes the first one.
  defp argument(flag), do: flag |> arguments() |> List.first()

  defp arguments(flag) do
    case :init.get_argument(flag) do
      {:ok, values} -> for value <- values, do: value |> List.first(~c"") |> to_string()
      :error -> []
    end
  end

  ## The release

  # `node` is the release's setting, `app` or `app@host`; nil if the release is not a node.
  defp release do
    with root when is_binary(root) <- System.get_env("RELEASE_ROOT") do
      node = System.get_env("RELEASE_NODE") || System.get_env("RELEASE_NAME")
      node = if System.get_env("RELEASE_DISTRIBUTION") != "none", do: node
      %{root: root, node: node, process: if(node && not Node.alive?(), do: Linux.node_process(node))}
    end
  end

  defp release_file(variable, name) do
    with root when is_binary(root) <- System.get_env("RELEASE_ROOT"),
         version when is_binary(version) <- System.get_env("RELEASE_VSN"),
         path = System.get_env(variable) || Path.join([root, "releases", version, name]),
         {:ok, text} <- File.read(path) do
      {path, text}
    else
      _ -> nil
    end
  end

  ## Where nodes ask

  # Looks up this VM's node, or else the release's, where other nodes do: at the address of its host. Also asks at the
  # loopback address, where OTP's client registers regardless of the configured addresses.
  defp look_up(port, release) do
    with name when is_binary(name) <- subject(release) do
      [short, host] = String.split(name, "@")
      ask = fn ip -> {ip, Client.port(short, ip, port, @timeout)} end
      address = resolve(host)

      %{
        node: name,
        host: with({:ok, ip} <- address, do: ask.(ip)),
        own_address: with({:ok, ip} <- address, do: HostAddress.own?(ip), else: (_ -> false)),
        loopback: ask.(loopback())
      }
    end
  end

  defp subject(release) do
    case {Node.alive?(), release} do
      {true, _} -> Atom.to_string(node())
      {false, %{node: node}} when is_binary(node) -> if node =~ "@", do: node, else: node <> "@" <> own_host()
      _ -> nil
    end
  end

  # OTP completes a name without a host in the same way.
  defp own_host do
    host = to_string(:net_adm.localhost())
    if System.get_env("RELEASE_DISTRIBUTION") == "name", do: host, else: host |> String.split(".") |> hd()
  end

  defp resolve(host), do: :inet.getaddr(String.to_charlist(host), Environment.family())

  defp loopback, do: if(Environment.family() == :inet6, do: {0, 0, 0, 0, 0, 0, 0, 1}, else: {127, 0, 0, 1})

  defp names(port), do: Client.names(loopback(), port, @timeout)

  # Whether an EPMD answers at the address of this host's name. No node need be called "doctor".
  defp host_name(port) do
    {:ok, name} = :inet.gethostname()
    host = to_string(name)

    with {:ok, ip} <- resolve(host),
         do: {host, {ip, Client.port("doctor", ip, port, @timeout)}},
         else: ({:error, reason} -> {host, {:error, reason}})
  end

  # Standbys connect over a Unix socket, and a systemd unit may forbid these.
  defp unix_sockets do
    with {:ok, socket} <- :gen_udp.open(0, [:local]), do: :gen_udp.close(socket)
  end

  # Likewise one of sock_diag, over which the kernel is asked whose a registration is: AF_NETLINK, NETLINK_SOCK_DIAG.
  defp netlink do
    with {:ok, socket} <- :socket.open(16, :raw, 4), do: :socket.close(socket)
  end
end
