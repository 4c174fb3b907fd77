defmodule EmbeddedEpmd.Boot.Interface do
  @moduledoc false
  # Where the distribution of this node listens. OTP listens at all addresses, whatever the node's name is, unless the
  # parameters of `kernel` say otherwise, so this sets them before it does.
  #
  # By itself a node is closed only if no other host can mean it by its name: 127.0.0.1 and localhost are another machine
  # there. A name that leads to a loopback here alone, as Debian's 127.0.1.1 for the host's own, needs `local: true`.

  alias EmbeddedEpmd.Boot.{Environment, HostAddress}

  # The local setting with which the node listens, and the parameters before this module set them.
  @local {__MODULE__, :local}
  @before {__MODULE__, :before}

  @interface :inet_dist_use_interface
  @options :inet_dist_listen_options

  @typedoc """
  Where to listen: as OTP does by itself; at an address; or on the loopback device, which has all of 127.0.0.0/8, or ::1,
  and whose sockets no other host reaches.
  """
  @type place :: :otp | {:address, :inet.ip_address()} | :device | {:error, String.t()}

  @doc """
  Makes the distribution listen where the node's name or the setting `:local` say. A host is `:unknown` if the node gets
  its name only later (`Node.start/2`). The error says why a node with `local: true` cannot be both closed and reached from
  its host; if it starts all the same, it is closed.
  """
  @spec choose(charlist() | :unknown, local :: boolean() | nil) :: :ok | {:error, String.t()}
  def choose(host, local) do
    withdraw()
    :persistent_term.put(@local, local)

    facts = %{
      chosen: chosen?(),
      local: local,
      host: host,
      addresses: fn -> HostAddress.known(host) end,
      carrier: Environment.carrier(),
      device: &device?/0
    }

    case place(facts) do
      :otp -> :ok
      {:address, ip} -> put(@interface, ip)
      :device -> put(@options, [{:bind_to_device, "lo"} | parameter(@options, [])])
      {:error, sentence} -> closed(sentence)
    end
  end

  defp closed(sentence) do
    put(@interface, HostAddress.loopback())
    {:error, sentence}
  end

  @doc "The setting `:local` with which the distribution listens, or would; `:none` if nobody has chosen yet."
  @spec local() :: boolean() | nil | :none
  def local, do: :persistent_term.get(@local, :none)

  ## The rules

  @doc false
  @spec place(map()) :: place()
  # What OTP is told itself counts.
  def place(%{chosen: true}), do: :otp
  def place(%{local: false}), do: :otp
  def place(%{host: :unknown, local: nil}), do: :otp

  def place(%{host: :unknown} = facts), do: through_device(facts, HostAddress.loopback())

  def place(facts) do
    if HostAddress.everywhere_local?(facts.host) or facts.local == true, do: at(facts.addresses.(), facts), else: :otp
  end

  defp at([ip], facts) do
    case {HostAddress.loopback?(ip), facts} do
      {true, %{carrier: :own}} -> {:address, ip}
      {true, _} -> through_device(facts, ip)
      {false, _} -> leads_out([ip], facts)
    end
  end

  # None is known in this family, or several.
  defp at(ips, facts) do
    if :lists.all(&HostAddress.loopback?/1, ips),
      do: through_device(facts, HostAddress.loopback()),
      else: leads_out(ips, facts)
  end

  # The carriers of `inet_epmd` listen at all addresses, whatever address OTP is told.
  defp through_device(facts, ip) do
    cond do
      facts.device.() ->
        :device

      facts.local == nil ->
        :otp

      facts.carrier == :own and facts.host == :unknown ->
        {:address, ip}

      true ->
        {:error, error("it would have to listen on the loopback device, to which this system or this user cannot bind")}
    end
  end

  # To listen there is to be open, and elsewhere no node of this host would reach it: neither do rpc, remote, stop and pid.
  defp leads_out(_ips, %{local: nil}), do: :otp

  defp leads_out([ip | _], facts),
    do:
      {:error, error(["its host, ", facts.host, ", has the address ", :inet.ntoa(ip), ", where other hosts reach it"])}

  defp error(why) do
    :unicode.characters_to_binary([
      "embedded_epmd: local is true, but this node cannot be closed to other hosts: ",
      why,
      "; name the node NAME@127.0.0.1 (NAME@::1 with -proto_dist inet6_tcp), or give its host a loopback address in /etc/hosts"
    ])
  end

  ## Facts

  defp chosen? do
    options = parameter(@options, [])

    parameter(@interface, nil) != nil or
      (is_list(options) and
         :lists.any(fn key -> :proplists.is_defined(key, options) end, [:ip, :ifaddr, :bind_to_device]))
  end

  # OTP ignores the error of some sockets that cannot be bound to it. Before Linux 5.7 it takes CAP_NET_RAW.
  defp device? do
    with {:unix, :linux} <- :os.type(),
         {:ok, socket} <- :gen_tcp.listen(0, ip: {127, 0, 0, 1}, bind_to_device: "lo") do
      :gen_tcp.close(socket)
      true
    else
      _ -> false
    end
  end

  ## The parameters

  defp parameter(key, default), do: :application.get_env(:kernel, key, default)

  defp put(key, value) do
    :persistent_term.put(@before, {key, value, :application.get_env(:kernel, key)})
    :application.set_env(:kernel, key, value)
  end

  # A node that was stopped may start again under another name. What somebody else has set since then stays.
  defp withdraw do
    with {key, ours, before} <- :persistent_term.get(@before, :none),
         {:ok, ^ours} <- :application.get_env(:kernel, key) do
      case before do
        {:ok, value} -> :application.set_env(:kernel, key, value)
        :undefined -> :application.unset_env(:kernel, key)
      end
    end

    :persistent_term.erase(@before)
  end
end
