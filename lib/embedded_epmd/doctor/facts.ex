defmodule EmbeddedEpmd.Doctor.Facts do
  @moduledoc false
  # What can be seen of this VM, of its release and of the host. Nothing is judged here.

  alias EmbeddedEpmd.{Client, Config}
  alias EmbeddedEpmd.Doctor.Linux

  @timeout 2_000

  @typedoc "What an EPMD answered that was asked for a name at an address."
  @type answer :: {:inet.ip_address(), Client.answer() | {:error, atom()}}

  @spec gather() :: map()
  def gather do
    status = EmbeddedEpmd.status()
    config = config()
    port = status.port || config.port
    release = release()

    Map.merge(host(port), %{
      settings: config.error,
      hand_over: config.hand_over,
      descriptor_share: config[:descriptor_share],
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
      node: node(),
      ipv6: family() == :inet6,
      look_up: look_up(port, release),
      host: host_name(port)
    })
  end

  @doc "Of the host alone."
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

  # What was set wrongly is a finding, and no reason to find nothing else.
  defp config do
    Map.put(Config.load(), :error, nil)
  rescue
    error in ArgumentError -> %{port: 4369, hand_over: true, error: error.message}
  end

  # OTP itself knows best which one counts. It has no answer where it would not start.
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

  # `node` is as the release has it, `app` or `app@host`; nil where it is no node.
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

  # This VM's node, else the release's, looked up where others look it up: at the address of its host. And the loopback
  # address, where OTP's client registers whatever addresses are configured.
  defp look_up(port, release) do
    with name when is_binary(name) <- subject(release) do
      [short, host] = String.split(name, "@")
      ask = fn ip -> {ip, Client.port(short, ip, port, @timeout)} end
      address = resolve(host)

      %{
        node: name,
        host: with({:ok, ip} <- address, do: ask.(ip)),
        own_address: with({:ok, ip} <- address, do: own?(ip), else: (_ -> false)),
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

  # As OTP completes a name without a host.
  defp own_host do
    host = to_string(:net_adm.localhost())
    if System.get_env("RELEASE_DISTRIBUTION") == "name", do: host, else: host |> String.split(".") |> hd()
  end

  defp resolve(host), do: :inet.getaddr(String.to_charlist(host), family())

  defp family, do: if(argument(:proto_dist) in ["inet6_tcp", "inet6_tls"], do: :inet6, else: :inet)

  defp loopback, do: if(family() == :inet6, do: {0, 0, 0, 0, 0, 0, 0, 1}, else: {127, 0, 0, 1})

  # The whole of 127.0.0.0/8 is this host.
  defp own?({127, _, _, _}), do: true
  defp own?({0, 0, 0, 0, 0, 0xFFFF, _, _} = ip), do: own?(:inet.ipv4_mapped_ipv6_address(ip))

  defp own?(ip) do
    {:ok, interfaces} = :inet.getifaddrs()
    ip in for {_, options} <- interfaces, {:addr, address} <- options, do: address
  end

  defp names(port), do: Client.names(loopback(), port, @timeout)

  # Whether an EPMD answers where this host's name leads; it need not know the name.
  defp host_name(port) do
    {:ok, name} = :inet.gethostname()
    host = to_string(name)

    with {:ok, ip} <- resolve(host),
         do: {host, {ip, Client.port("doctor", ip, port, @timeout)}},
         else: ({:error, reason} -> {host, {:error, reason}})
  end

  # A unit may forbid them, and a standby is asked for over one.
  defp unix_sockets do
    with {:ok, socket} <- :gen_udp.open(0, [:local]), do: :gen_udp.close(socket)
  end
end
