defmodule EmbeddedEpmd.Doctor.Connection.Cookie do
  @moduledoc false
  # The cookie that this VM uses for the other node.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.{Connection, Finding}

  @doc "The cookie that OTP would use. A VM that is not a node has none yet: it would read its flag or the user's file."
  @spec of(Connection.state()) :: atom()
  def of(%{here: nil}) do
    case :init.get_argument(:setcookie) do
      {:ok, [[cookie] | _]} -> List.to_atom(cookie)
      _ -> from_file()
    end
  end

  def of(%{atom: node}) do
    with :nocookie <- :erlang.get_cookie(node), do: :none
  end

  defp from_file do
    files = [
      Path.join(System.user_home() || "/", ".erlang.cookie"),
      :filename.basedir(:user_config, "erlang") |> Path.join(".erlang.cookie")
    ]

    Enum.find_value(files, :none, fn file ->
      with {:ok, text} <- File.read(file),
           cookie when cookie != "" <- String.trim(text),
           do: String.to_atom(cookie),
           else: (_ -> nil)
    end)
  end

  @spec missing(Connection.state()) :: Finding.t()
  def missing(state) do
    warning(
      "#{state.node} answers, but this VM has no cookie to show.",
      "So it cannot be told whether the node would accept it.",
      "Ask in a VM that is a node, or start this one with --cookie."
    )
  end

  @spec differs(Connection.state()) :: Finding.t()
  def differs(state) do
    problem(
      "#{state.node} does not accept the cookie of this VM#{whence(state)}.",
      "The cookies differ, and no node connects to one with another cookie.",
      "Compare Node.get_cookie() here and there (RELEASE_COOKIE, releases/COOKIE, --cookie, ~/.erlang.cookie), and look " <>
        "for Node.set_cookie/2."
    )
  end

  defp whence(%{here: nil}), do: ", which is that of its flag or of ~/.erlang.cookie"

  defp whence(%{atom: node}),
    do: if(:erlang.get_cookie() == :erlang.get_cookie(node), do: "", else: ", which Node.set_cookie/2 set for it alone")
end
