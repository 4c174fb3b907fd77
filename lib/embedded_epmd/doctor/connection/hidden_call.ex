defmodule EmbeddedEpmd.Doctor.Connection.HiddenCall do
  @moduledoc false
  # Calls one function on another node, over a connection whose handshake is done. `:rpc` cannot be used: the
  # connection was made under the name of a probe, not of this VM's node.

  alias EmbeddedEpmd.Doctor.Connection.Handshake

  @pass_through 112
  @reg_send 6
  # The tag of a compressed term in the external term format.
  @compressed 80
  @longest_message 1_000_000

  @doc """
  Returns what `module.function(arguments...)` returns on the other node. `name` and `creation` are those of the
  handshake.
  """
  @spec call(Handshake.t(), String.t(), pos_integer(), module(), atom(), [term()]) :: {:ok, term()} | {:error, term()}
  def call(link, name, creation, module, function, arguments) do
    caller = pid(name, creation)
    control = {@reg_send, caller, :"", :rex}
    request = {:"$gen_call", {caller, :call}, {:call, module, function, arguments, caller}}
    message = [@pass_through, :erlang.term_to_binary(control), :erlang.term_to_binary(request)]

    with :ok <- Handshake.send_bytes(link, [<<IO.iodata_length(message)::32>>, message]), do: answer(link)
  end

  # After the handshake the length before each message has four bytes. An empty message is a tick.
  defp answer(link) do
    with {:ok, <<length::32>>} <- Handshake.receive_bytes(link, 4) do
      cond do
        length == 0 -> answer(link)
        length > @longest_message -> {:error, :too_long}
        true -> with {:ok, message} <- Handshake.receive_bytes(link, length), do: decode(link, message)
      end
    end
  end

  # The other node may send anything to a connected node.
  defp decode(link, <<@pass_through, terms::binary>>) do
    {_control, used} = decode_term(terms)
    message = binary_part(terms, used, byte_size(terms) - used)
    if message == "", do: answer(link), else: result(link, elem(decode_term(message), 0))
  rescue
    ArgumentError -> {:error, :unreadable}
  end

  defp decode(link, _message), do: answer(link)

  # No node compresses what it sends, and a megabyte can hold a compressed term of gigabytes.
  defp decode_term(<<131, @compressed, _::binary>>), do: raise(ArgumentError, "a compressed term")
  defp decode_term(term), do: :erlang.binary_to_term(term, [:safe, :used])

  defp result(_link, {:call, {:badrpc, reason}}), do: {:error, reason}
  defp result(_link, {:call, result}), do: {:ok, result}
  defp result(link, _other), do: answer(link)

  # NEW_PID_EXT, with the node as SMALL_ATOM_UTF8_EXT: a pid of the probe.
  defp pid(name, creation),
    do: :erlang.binary_to_term(<<131, 88, 119, byte_size(name), name::binary, 1::32, 0::32, creation::32>>)
end
